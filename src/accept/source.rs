//! [`Source`]: one socket that requests are taken from, with its handler.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::address::Address;
use crate::config::TransportOptions;
use crate::error::{Error, Result};
use crate::request::{RequestTask, panic_message, sealed};
use crate::state::{ListenerInfo, ServerState};
use crate::transport::Transport;

pub(super) struct Source {
    pub(super) info: Arc<ListenerInfo>,
    tasks: Box<dyn TaskSource>,
}

impl Source {
    /// For a transport that is [prepared](prepare).
    pub(super) fn new<T: Transport>(
        info: Arc<ListenerInfo>,
        transport: T,
        handler: Arc<T::Handler>,
    ) -> Source {
        Source { info, tasks: Box::new(TransportWithHandler { transport, handler }) }
    }

    /// Takes the next request, without blocking. `None` for one that is dropped instead.
    pub(super) fn accept(
        &self,
        state: &Arc<ServerState>,
    ) -> io::Result<Option<Box<dyn RequestTask>>> {
        self.tasks.accept(&self.info, state)
    }

    pub(super) fn set_owner(&self, yes: bool) {
        self.tasks.set_owner(yes);
    }

    /// How many requests may be waiting now, at most.
    pub(super) fn max_queued(&self) -> usize {
        // A user's transport may panic.
        let max_queued = catch_unwind(AssertUnwindSafe(|| self.tasks.max_queued()));
        max_queued.ok().flatten().unwrap_or(usize::MAX)
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tasks.as_fd()
    }
}

/// Makes a socket ready to be accepted from, and returns its address.
pub(crate) fn prepare<T: Transport>(transport: &T, options: &TransportOptions) -> Result<Address> {
    // A socket that was bound elsewhere may be inheritable: a program that a handler starts would
    // keep the address after the server's end.
    fcntl_setfd(transport, FdFlags::CLOEXEC)
        .map_err(Into::into)
        .and_then(|()| transport.prepare(options))
        .map_err(Error::system("set up the listener"))?;
    transport.local_addr().map_err(Error::system("read the address"))
}

/// Turns a panic of a user's transport into an error.
pub(super) fn catch_panic<R>(call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        Err(io::Error::other(format!("the transport panicked: {}", panic_message(&*panic))))
    })
}

/// A transport with its handler, of either kind.
trait TaskSource: AsFd + Send + Sync {
    fn accept(
        &self,
        listener: &Arc<ListenerInfo>,
        state: &Arc<ServerState>,
    ) -> io::Result<Option<Box<dyn RequestTask>>>;
    fn set_owner(&self, yes: bool);
    fn max_queued(&self) -> Option<usize>;
}

struct TransportWithHandler<T: Transport> {
    transport: T,
    handler: Arc<T::Handler>,
}

impl<T: Transport> AsFd for TransportWithHandler<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.as_fd()
    }
}

impl<T: Transport> TaskSource for TransportWithHandler<T> {
    fn accept(
        &self,
        listener: &Arc<ListenerInfo>,
        state: &Arc<ServerState>,
    ) -> io::Result<Option<Box<dyn RequestTask>>> {
        let incoming = self.transport.accept(&state.settings.transport)?;
        Ok(<T::Handler as sealed::RequestHandler>::task(&self.handler, incoming, listener, state))
    }

    fn set_owner(&self, yes: bool) {
        self.transport.set_owner(yes);
    }

    fn max_queued(&self) -> Option<usize> {
        self.transport.max_queued()
    }
}
