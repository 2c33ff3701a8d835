//! [`Exit`]: how a child process has ended.

/// How a child exited: its status, or the signal that killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Status(i32),
    Signal(i32),
}

impl Exit {
    /// From its status, if it has exited by itself, or else the signal.
    pub(super) fn new(status: Option<i32>, signal: Option<i32>) -> Exit {
        status.map_or(Exit::Signal(signal.unwrap_or_default()), Exit::Status)
    }

    pub(crate) fn is_success(self) -> bool {
        self == Exit::Status(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Status(status) => write!(f, "exited with status {status}"),
            Exit::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}
