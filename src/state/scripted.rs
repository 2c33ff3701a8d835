//! [`ScriptedUpstreams`]: what a handler in a unit test connects to, instead of the network.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;

use parking_lot::Mutex;

use crate::address::Endpoint;

/// For each address that a test has an upstream for: those that are not connected to yet.
#[derive(Debug, Default)]
pub(crate) struct ScriptedUpstreams {
    waiting: Mutex<HashMap<Endpoint, VecDeque<UnixStream>>>,
}

impl ScriptedUpstreams {
    pub(crate) fn add(&self, endpoint: Endpoint, stream: UnixStream) {
        self.waiting.lock().entry(endpoint).or_default().push_back(stream);
    }

    /// The next one at an address, or the error of a server that is gone; `None` for an address that has
    /// never had one.
    pub(crate) fn connect(&self, endpoint: &Endpoint) -> Option<io::Result<UnixStream>> {
        let mut waiting = self.waiting.lock();
        let next = waiting.get_mut(endpoint)?.pop_front();
        Some(next.ok_or_else(|| io::ErrorKind::ConnectionRefused.into()))
    }
}
