//! Names in a chat, no two of which look alike.

use socketserver::services::chat_line;
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;
use unicode_security::confusable_detection::skeleton;

/// In bytes.
const MAX_LENGTH: usize = 32;

/// A name as a guest sends it.
pub(crate) struct Name {
    /// As others see it.
    pub(crate) shown: String,
    /// Equal for names that look alike.
    pub(crate) key: String,
}

impl Name {
    /// Parses a line. `None` if the name is empty, too long, has control characters, is not text,
    /// has nothing to see, or could pass for the begin of a line of another guest.
    pub(crate) fn parse(line: &[u8]) -> Option<Name> {
        let text = chat_line(line);
        let shown = text.trim().to_owned();
        let key = key(&shown);
        let is_name = (1..=MAX_LENGTH).contains(&shown.len())
            && !shown.contains(|c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER)
            && !shown.starts_with(is_combining_mark)
            && !key.is_empty()
            && !key.contains(':');
        is_name.then_some(Name { shown, key })
    }
}

/// The name in its compatible form (NFKC), without invisible characters, with one character for all
/// that look like it ([UTS 39, 4](https://www.unicode.org/reports/tr39/#Confusable_Detection)), and
/// without blanks at its ends.
fn key(name: &str) -> String {
    // The skeleton has no place for the Hangul fillers and the empty Braille pattern.
    let fillers = ['\u{115f}', '\u{1160}', '\u{2800}', '\u{3164}', '\u{ffa0}'];
    let compatible: String = name.replace(fillers, " ").nfkc().collect();
    let skeleton: String = skeleton(&compatible).collect();
    skeleton.split_whitespace().collect::<Vec<_>>().join(" ")
}
