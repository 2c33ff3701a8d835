//! [`printable`]: a client's line as text that is safe to show.

/// A line as text that is safe to show to others, without its end.
///
/// U+FFFD takes the place of each control character except tab, of each line or paragraph
/// separator, of each bidirectional control, and of bytes that are not UTF-8.
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
    let shown = |c: char| match c {
        '\t' => c,
        // Line and paragraph separators; the bidirectional controls of Unicode's annex 9.
        '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    match str::from_utf8(line) {
        // The fast path, for nearly every line.
        Ok(text) if line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) => text.to_owned(),
        _ => String::from_utf8_lossy(line).chars().map(shown).collect(),
    }
}
