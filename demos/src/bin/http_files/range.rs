//! The `Range` field ([RFC 9110, 14](https://www.rfc-editor.org/rfc/rfc9110#section-14)).

use std::ops::Range;

/// The part of a file that a `Range` field selects.
pub(crate) enum Selection {
    /// The field is ignored: another unit, several ranges, or not valid; or the file is empty.
    Whole,
    Part(Range<u64>),
    /// The range begins after the end of the file.
    Unsatisfiable,
}

/// Reads `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-LENGTH`, for a file of this length.
pub(crate) fn select(field: &str, length: u64) -> Selection {
    let Some(("bytes", range)) = field.split_once('=') else { return Selection::Whole };
    let Some((first, last)) = range.trim_matches([' ', '\t']).split_once('-') else {
        return Selection::Whole;
    };
    // `Content-Range` cannot express a part of an empty file.
    if length == 0 {
        return Selection::Whole;
    }
    match (first.is_empty(), number(first), number(last)) {
        (true, _, Some(0)) => Selection::Unsatisfiable,
        (true, _, Some(suffix)) => Selection::Part(length.saturating_sub(suffix)..length),
        (_, Some(first), None) if last.is_empty() => part(first, u64::MAX, length),
        (_, Some(first), Some(last)) if first <= last => part(first, last, length),
        _ => Selection::Whole,
    }
}

fn part(first: u64, last: u64, length: u64) -> Selection {
    if first >= length {
        return Selection::Unsatisfiable;
    }
    Selection::Part(first..last.saturating_add(1).min(length))
}

/// Digits only; a number that does not fit is beyond the end of any file.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::MAX))
}
