//! A client's line as text that is safe to show: [`printable`], [`chat_line`].

/// The longest run of characters that have no place of their own.
const MAX_MARKS: usize = 8;

/// A line as text that is safe to show to others, without its end.
///
/// U+FFFD takes the place of each control character except tab, of each line or paragraph
/// separator, of each bidirectional control, and of bytes that are not UTF-8. Of a run of combining
/// marks or invisible characters only the first eight are left: more of them would cover other
/// lines.
///
/// ```
/// use socketserver::services::printable;
///
/// assert_eq!(printable(b"tab\there\r\n"), "tab\there");
/// assert_eq!(printable(b"\x1b[2Jb\xffye\r"), "\u{fffd}[2Jb\u{fffd}ye\u{fffd}");
/// ```
pub fn printable(line: &[u8]) -> String {
    let line =
        line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    match str::from_utf8(line) {
        // The fast path, for nearly every line.
        Ok(text) if line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) => text.to_owned(),
        _ => {
            let mut marks = 0;
            let mut text: String = String::from_utf8_lossy(line).chars().map(shown).collect();
            text.retain(|c| {
                marks = if is_mark(c) || is_invisible(c) { marks + 1 } else { 0 };
                marks <= MAX_MARKS
            });
            text
        }
    }
}

/// A line as a chat shows it to others: [`printable`], with the first blank of each run of blanks.
///
/// More blanks could fill a row of a terminal, so that the rest of the line begins the next row,
/// and looks like a line of another client.
///
/// ```
/// use socketserver::services::chat_line;
///
/// assert_eq!(chat_line(b"one \t two\tthree\n"), "one two\tthree");
/// ```
pub fn chat_line(line: &[u8]) -> String {
    let mut text = printable(line);
    let mut follows_blank = false;
    text.retain(|c| {
        let is_repeated = follows_blank && is_blank(c);
        // An invisible character does not end a run of blanks.
        if !is_invisible(c) {
            follows_blank = is_blank(c);
        }
        !is_repeated
    });
    text
}

/// The character, or what takes its place.
fn shown(c: char) -> char {
    match c {
        '\t' => c,
        // Line and paragraph separators; the bidirectional controls of Unicode's annex 9.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            char::REPLACEMENT_CHARACTER
        }
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

/// Whether a character is drawn on the one before it (`Grapheme_Extend`). std has no such method,
/// but [`str::escape_debug`] escapes such a character at the beginning of a text only.
fn is_mark(c: char) -> bool {
    // Latin, East Asian scripts and emoji have no marks, and `escape_debug` takes long for some.
    let has_marks = !matches!(c, '\0'..='\u{2ff}' | '\u{30a0}'..='\u{a66e}')
        && !matches!(c, '\u{ac00}'..='\u{d7ff}' | '\u{1f000}'..='\u{3ffff}');
    if !has_marks || c.escape_debug().len() == 1 {
        return false;
    }
    let mut text = [b'a'; 5];
    let length = 1 + c.encode_utf8(&mut text[1..]).len();
    str::from_utf8(&text[..length]).is_ok_and(|text| text.escape_debug().nth(1) == Some(c))
}

/// Whether a character is not drawn, and takes no place (most of `Default_Ignorable_Code_Point`).
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
        || matches!(c, '\u{fe00}'..='\u{fe0f}' | '\u{fff0}'..='\u{fffb}')
        || matches!(c, '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// Whether a character takes a place in which nothing is drawn.
fn is_blank(c: char) -> bool {
    // The Hangul fillers and the Braille pattern without dots are not white space.
    c.is_whitespace() || matches!(c, '\u{115f}' | '\u{1160}' | '\u{2800}' | '\u{3164}' | '\u{ffa0}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bidirectional_controls_and_separators_are_replaced() {
        let controls = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\
                        \u{2066}\u{2067}\u{2068}\u{2069}\u{2028}\u{2029}\u{85}";
        for c in controls.chars() {
            assert_eq!(printable(format!("a{c}b").as_bytes()), "a\u{fffd}b", "{c:?}");
        }
    }

    #[test]
    fn a_pile_of_marks_is_cut_short() {
        // A Latin, a Thai and an enclosing mark, a variation selector, a zero-width space, a tag.
        for mark in ['\u{301}', '\u{e49}', '\u{20dd}', '\u{fe0f}', '\u{200b}', '\u{e0062}'] {
            let marks = |number| String::from_iter(std::iter::repeat_n(mark, number));
            let pile = format!("a{}b{}", marks(1000), marks(8));
            let shown = format!("a{}b{}", marks(8), marks(8));
            assert_eq!(printable(pile.as_bytes()), shown, "{mark:?}");
            assert_eq!(printable(shown.as_bytes()), shown, "{mark:?}");
        }
        // Invisible characters do not separate two piles.
        let pile = "a".to_owned() + &"\u{301}\u{200d}\u{302}\u{200b}".repeat(100);
        assert_eq!(printable(pile.as_bytes()).chars().count(), 9);
    }

    #[test]
    fn words_of_many_scripts_and_emoji_are_kept() {
        for text in [
            "Gr\u{fc}\u{df}e, e\u{323}\u{302}",
            "\u{5e9}\u{5c1}\u{5b8}\u{5dc}\u{5d5}\u{5b9}\u{5dd}",
            "\u{e19}\u{e49}\u{e33}",
            "\u{915}\u{94d}\u{937}\u{93f}",
            "\u{1019}\u{103c}\u{103d}\u{103e}\u{1031}\u{1037}",
            "\u{f62}\u{f90}\u{fb1}\u{f71}\u{f74}\u{f7e}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467} \u{2764}\u{fe0f} 1\u{fe0f}\u{20e3}",
            // The flag of Scotland has six tags.
            "\u{1f3f4}\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}",
            // A private character, and one that is not assigned.
            "\u{e000}\u{378}",
        ] {
            assert_eq!(printable(text.as_bytes()), text);
            assert_eq!(chat_line(text.as_bytes()), text);
        }
    }

    #[test]
    fn of_a_run_of_blanks_a_chat_shows_the_first() {
        for (line, shown) in [
            ("", ""),
            (" ", " "),
            ("a b", "a b"),
            ("a    b", "a b"),
            ("   a   ", " a "),
            ("a\t\t\tb", "a\tb"),
            ("a \t \u{a0}\u{2003}\u{3000}b", "a b"),
            ("a \u{2800}\u{3164}\u{ffa0} b", "a b"),
            ("a\u{200b} \u{200b} \u{200b} b", "a\u{200b} \u{200b}\u{200b}b"),
            ("a \u{fe0f} \u{34f} b", "a \u{fe0f}\u{34f}b"),
            ("\\ ' \" a", "\\ ' \" a"),
        ] {
            assert_eq!(chat_line(line.as_bytes()), shown);
        }
    }
}
