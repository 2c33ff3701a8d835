//! [`AccessLog`]: a line in the log for each request.

use std::fmt;

use super::{Closed, EventKind, Folded};
use crate::state::Observer;

/// An [`Observer`] that writes a line for each request that has ended, connection or datagram, through
/// the [`log`] crate, at the level `info`. The logger adds the time.
///
/// ```text
/// peer=192.0.2.7:50312 id=17 listener=0.0.0.0:2626 reason=eof duration=12.034 longest_wait=9.980 received=348 sent=1204
/// ```
///
/// Each field is a name, `=` and a value, as in [logfmt](https://brandur.org/logfmt). Times are in seconds,
/// sizes in bytes; they are those of [`Closed`], as the others are, and a reason is written by its
/// [name](crate::CloseReason::name). A value with blanks, `=`, quotes, backslashes or characters that
/// cannot be printed is in double quotes, and these characters are escaped as in a Rust string: a client
/// on a Unix socket may have chosen its name. Of a [flood](Observer::folded) there is a line
///
/// ```text
/// folded=4711
/// ```
///
/// which says how many lines a second would have had more. More fields may follow in later versions.
/// Requests that were not admitted have no line; [`Stats`](crate::Stats) counts them.
///
/// ```
/// use socketserver::{ThreadingTcpServer, events::AccessLog, services::Echo};
///
/// let server = ThreadingTcpServer::builder().observer(AccessLog::new()).bind("127.0.0.1:0", Echo)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AccessLog {
    target: String,
}

impl Default for AccessLog {
    fn default() -> AccessLog {
        AccessLog::new()
    }
}

impl AccessLog {
    /// With the log target `socketserver::access`, by which the logger can tell it from other lines.
    pub fn new() -> AccessLog {
        AccessLog { target: "socketserver::access".to_owned() }
    }

    /// Another log target: for a program with several servers, for instance.
    #[must_use]
    pub fn target(self, target: impl Into<String>) -> AccessLog {
        AccessLog { target: target.into() }
    }
}

impl Observer for AccessLog {
    fn closed(&self, closed: &Closed<'_>) {
        log::info!(
            target: &self.target,
            "peer={} id={} listener={} reason={} duration={:.3} longest_wait={:.3} received={} sent={}",
            Value(closed.peer),
            closed.id,
            Value(&closed.listener.local_addr),
            closed.reason.name(),
            closed.duration.as_secs_f64(),
            closed.longest_wait.as_secs_f64(),
            closed.received,
            closed.sent,
        );
    }

    fn folded(&self, folded: &Folded) {
        if folded.event == EventKind::Closed {
            log::info!(target: &self.target, "folded={}", folded.count);
        }
    }
}

/// A value as the log has it.
struct Value<T>(T);

impl<T: fmt::Display> fmt::Display for Value<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let is_plain = |c: char| c != ' ' && c != '=' && c.escape_debug().len() == 1;
        if !text.is_empty() && text.chars().all(is_plain) {
            f.write_str(&text)
        } else {
            write!(f, "{text:?}")
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_pass_for_another_field_or_line() {
        let written = |text: &str| Value(text).to_string();
        assert_eq!(written("127.0.0.1:80"), "127.0.0.1:80");
        assert_eq!(written("unix:/run/größe"), "unix:/run/größe");
        assert_eq!(written(""), r#""""#);
        assert_eq!(written("a id=7"), r#""a id=7""#);
        assert_eq!(written("a\"b"), r#""a\"b""#);
        assert_eq!(written(r"a\n"), r#""a\\n""#);
        assert_eq!(written("a\nb\u{202e}\u{a0}c"), r#""a\nb\u{202e}\u{a0}c""#);
    }
}
