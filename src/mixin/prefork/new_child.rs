//! [`NewChild`]: a process that was just forked becomes a server of its own.

use crate::accept::BaseServer;
use crate::error::{Error, Result};
use crate::mixin::child_process::FAILED;
use crate::state::ProcessSignals;
use crate::sys::fork::{self, Pid};
use crate::sys::signals::{self, BlockedSignals};

pub(super) struct NewChild {
    pub(super) parent: Pid,
    pub(super) index: usize,
    pub(super) signals: ProcessSignals,
    pub(super) blocked: BlockedSignals,
}

impl NewChild {
    /// Makes this process a server of its own, and calls `start`; exits if something fails. The order
    /// of these steps matters:
    ///
    /// 1. Replace the waker and the shutdown signal, which the parent has too.
    /// 2. Install the child's signal handlers, and then unblock the signals, which are blocked since
    ///    before the fork. A signal that arrived in between stops this child instead of running the
    ///    parent's handler.
    /// 3. Ask for `SIGTERM` at the parent's death, which the handlers now expect.
    /// 4. Start what accepts and serves.
    pub(super) fn begin(self, server: &BaseServer, start: impl FnOnce() -> Result<()>) {
        let NewChild { parent, index, signals, blocked } = self;
        fork::begin_generation();
        let begin = || -> Result<()> {
            let become_child = || {
                server.become_child(index, &signals)?;
                signals::write_on_signals(server.state().shutdown_pipe()?);
                Ok(())
            };
            become_child().map_err(Error::system("make a child's own signals"))?;
            drop(blocked);
            signals::end_with_parent(parent).map_err(Error::system("follow the parent"))?;
            start()
        };
        if let Err(error) = begin() {
            log::error!("{}: a child cannot start: {error}", server.state().local_addr());
            fork::exit(FAILED);
        }
    }
}
