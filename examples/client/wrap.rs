//! Long lines on a terminal. Only the first row of a line begins at the left margin: a row that the
//! terminal began there could look like a line of another client.

use std::{io, iter};

use rustix::termios::tcgetwinsize;
use unicode_width::UnicodeWidthChar;

/// What each other row begins with.
const INDENT: &str = "    ";

const TAB_STOP: usize = 8;

/// Breaks a line, or the rest of one, into rows that fit the terminal of standard output, in which
/// tabs become spaces.
pub(crate) fn wrapped(line: &str, begins_line: bool) -> String {
    let size = tcgetwinsize(io::stdout());
    wrapped_at(line, begins_line, size.map_or(0, |size| size.ws_col.into()))
}

fn wrapped_at(line: &str, begins_line: bool, columns: usize) -> String {
    let mut rows = if begins_line { String::new() } else { INDENT.to_owned() };
    let mut column = rows.len();
    // Some terminals do not know their width, and a narrow one has no space for the indent.
    if columns < 2 * INDENT.len() {
        return rows + line;
    }
    for c in line.chars() {
        if width(c, column) > columns - column {
            rows.push('\n');
            rows.push_str(INDENT);
            column = INDENT.len();
        }
        let width = width(c, column);
        match c {
            '\t' => rows.extend(iter::repeat_n(' ', width)),
            c => rows.push(c),
        }
        column += width;
    }
    rows
}

/// How many columns a character takes, in this one.
fn width(c: char, column: usize) -> usize {
    match c {
        '\t' => TAB_STOP - column % TAB_STOP,
        // It may turn the character before it into an emoji, which is wider.
        '\u{fe0f}' => 1,
        c => c.width().unwrap_or(0),
    }
}
