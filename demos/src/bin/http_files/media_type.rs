//! The `Content-Type` of a file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Browsers look for the charset that a page names in its first bytes
/// ([HTML, 13.2.3.2](https://html.spec.whatwg.org/multipage/parsing.html#determining-the-character-encoding)).
const PRESCAN: usize = 1024;

/// By the extension of the name, with a charset if the content, so far as it is known, is text in
/// UTF-8. Browsers do not assume UTF-8; but a charset that is sent overrides the one that the
/// content names.
pub(crate) fn of(path: &[u8], content: Option<&[u8]>) -> String {
    let guess = mime_guess::from_path(OsStr::from_bytes(path)).first_raw();
    let guess = guess.unwrap_or("application/octet-stream");
    let may_name_charset = matches!(guess, "text/html" | "text/css" | "text/xml");
    let is_utf8 =
        |content: &[u8]| is_utf8(content) && !(may_name_charset && names_charset(content));
    match content.is_some_and(|content| guess.starts_with("text/") && is_utf8(content)) {
        true => format!("{guess}; charset=utf-8"),
        false => guess.to_owned(),
    }
}

/// NUL is of UTF-16, and ESC of ISO-2022, whose other bytes may be those of ASCII.
fn is_utf8(content: &[u8]) -> bool {
    str::from_utf8(content).is_ok() && !content.iter().any(|byte| matches!(byte, 0 | 0x1b))
}

fn names_charset(content: &[u8]) -> bool {
    let begin = &content[..content.len().min(PRESCAN)];
    ["charset", "encoding"].iter().any(|word| {
        begin.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
    })
}
