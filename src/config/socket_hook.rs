//! [`SocketHook`]: what a program does with a socket before it is bound.

use std::fmt;
use std::io;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use socket2::Socket;

/// See [`Builder::socket`](crate::Builder::socket).
#[derive(Clone)]
pub(crate) struct SocketHook(Arc<Hook>);

type Hook = dyn Fn(&Socket) -> io::Result<()> + Send + Sync;

/// It is called before anything serves, where a panic is not caught.
impl UnwindSafe for SocketHook {}
impl RefUnwindSafe for SocketHook {}

impl SocketHook {
    pub(crate) fn new(
        hook: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> SocketHook {
        SocketHook(Arc::new(hook))
    }

    pub(super) fn call(&self, socket: &Socket) -> io::Result<()> {
        (self.0)(socket)
    }
}

impl fmt::Debug for SocketHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SocketHook")
    }
}
