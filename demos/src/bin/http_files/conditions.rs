//! Conditional requests ([RFC 9110, 13](https://www.rfc-editor.org/rfc/rfc9110#section-13)).

use std::time::{Duration, SystemTime};

use http::StatusCode;

use crate::request::Fields;

/// How old a `Last-Modified` must be to prove that the file is the same. A file can change twice in
/// the second that a date names, and clocks differ.
const STRONG_AFTER: Duration = Duration::from_secs(60);

/// The fields that a response depends on. No file has an entity tag.
pub(crate) struct Conditions {
    /// `If-Match` names an entity tag.
    if_match_tag: bool,
    if_unmodified_since: Option<SystemTime>,
    /// `If-None-Match: *`.
    if_none_match_any: bool,
    if_modified_since: Option<SystemTime>,
    if_range: IfRange,
}

enum IfRange {
    Absent,
    Date(SystemTime),
    /// An entity tag, or not valid.
    Never,
}

impl Conditions {
    pub(crate) fn of(fields: &Fields) -> Conditions {
        let date = |name| httpdate::parse_http_date(fields.only(name)?).ok();
        // A date is ignored beside entity tags.
        let date_unless = |name, tags| if fields.has(tags) { None } else { date(name) };
        Conditions {
            if_match_tag: fields.list("if-match").any(|tag| tag != b"*"),
            if_unmodified_since: date_unless("if-unmodified-since", "if-match"),
            if_none_match_any: fields.only("if-none-match") == Some("*"),
            if_modified_since: date_unless("if-modified-since", "if-none-match"),
            if_range: match date("if-range") {
                Some(date) => IfRange::Date(date),
                None if fields.has("if-range") => IfRange::Never,
                None => IfRange::Absent,
            },
        }
    }

    /// For what exists, and has this `Last-Modified`: the status if a condition is false, 412 or
    /// 304.
    pub(crate) fn failed(&self, modified: Option<SystemTime>) -> Option<StatusCode> {
        let is_after = |date| modified.zip(date).map(|(modified, date)| modified > date);
        if self.if_match_tag || is_after(self.if_unmodified_since) == Some(true) {
            Some(StatusCode::PRECONDITION_FAILED)
        } else if self.if_none_match_any || is_after(self.if_modified_since) == Some(false) {
            Some(StatusCode::NOT_MODIFIED)
        } else {
            None
        }
    }

    /// Whether a `Range` counts
    /// ([RFC 9110, 13.1.5](https://www.rfc-editor.org/rfc/rfc9110#section-13.1.5)).
    pub(crate) fn allow_range(&self, modified: Option<SystemTime>) -> bool {
        let is_strong =
            |date: SystemTime| date.elapsed().is_ok_and(|elapsed| elapsed >= STRONG_AFTER);
        match self.if_range {
            IfRange::Absent => true,
            IfRange::Date(date) => modified == Some(date) && is_strong(date),
            IfRange::Never => false,
        }
    }
}
