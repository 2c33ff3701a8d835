//! [`UpstreamWait`]: an upstream waits as its client does, and no longer than for its client.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::net::{Interest, SharedStream, Stream, Wait, WaitSource, poll_any};

/// The client with which an upstream is closed, if it is.
pub(super) type ClosesWith = Arc<OnceLock<Arc<SharedStream>>>;

/// How an upstream waits: as the mixin says, and if it is to be closed with its client, only until that
/// is gone.
pub(super) struct UpstreamWait {
    /// `None`: the thread blocks.
    pub(super) wait: Option<Box<dyn Wait>>,
    pub(super) closes_with: ClosesWith,
}

impl UpstreamWait {
    fn wait_any_of(&self, sources: &[WaitSource<'_>], deadline: Option<Instant>) -> io::Result<()> {
        match &self.wait {
            Some(wait) => wait.wait_any(sources, deadline),
            None => poll_any(sources, None, deadline).map(drop),
        }
    }
}

impl Wait for UpstreamWait {
    fn wait(
        &self,
        stream: &dyn Stream,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> io::Result<()> {
        match (self.closes_with.get(), &self.wait) {
            (None, Some(wait)) => wait.wait(stream, interest, deadline),
            (None, None) => self.wait_any_of(&[WaitSource::new(stream, None, interest)], deadline),
            (Some(client), _) => {
                let own = WaitSource::new(stream, self.number(), interest);
                let sources = [own, client.source(Interest::Closed)];
                self.wait_any_of(&sources, deadline)?;
                match sources[1].is_ready() {
                    true => Err(Error::ConnectionClosed.into()),
                    false => Ok(()),
                }
            }
        }
    }

    /// A relay and a select watch the client by themselves.
    fn wait_any(&self, sources: &[WaitSource<'_>], deadline: Option<Instant>) -> io::Result<()> {
        self.wait_any_of(sources, deadline)
    }

    fn yield_now(&self) {
        if let Some(wait) = &self.wait {
            wait.yield_now();
        }
    }

    fn sleep(&self, time: Duration) {
        match &self.wait {
            Some(wait) => wait.sleep(time),
            None => std::thread::sleep(time),
        }
    }

    fn for_upstream(&self) -> Option<Box<dyn Wait>> {
        self.wait.as_ref()?.for_upstream()
    }

    fn number(&self) -> Option<u64> {
        self.wait.as_ref()?.number()
    }
}
