//! The results of commands.

use std::error::Error;
use std::fmt::Display;

/// The lines to print. A [`usage_error`] makes the status 2, other errors 1.
pub(crate) type Answer = Result<Vec<String>, Box<dyn Error>>;

/// For an invalid question.
pub(crate) fn usage_error(message: impl Into<String>) -> Box<dyn Error> {
    lexopt::Error::from(message.into()).into()
}

/// For a question that has no answer.
pub(crate) fn failed(question: &str, why: impl Display) -> Box<dyn Error> {
    format!("{question}: {why}").into()
}
