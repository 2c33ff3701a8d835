//! Connecting to one of the addresses of an endpoint.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, Shutdown};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef};

use super::look_up::look_up;
use super::wait::{ClosesWith, UpstreamWait};
use super::{ConnectOptions, deregister};
use crate::address::{Address, Endpoint, Scheme};
use crate::error::{Error, Result};
use crate::id::ConnectionId;
use crate::net::{Interest, SharedStream, SocketStream, set_tcp_options};
use crate::state::ServerState;
use crate::sync::{Activity, Current, Interrupted, TimeLimit};
use crate::sys::socket::new_stream;
#[cfg(feature = "tls")]
use crate::tls::{self, ClientSide};

/// How long an attempt runs alone: the "Connection Attempt Delay" of
/// [RFC 8305, 5](https://www.rfc-editor.org/rfc/rfc8305#section-5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// How often a Unix socket is tried whose backlog is full, for which there is no event.
const RETRY_INTERVAL: Duration = Duration::from_millis(10);

pub(super) struct Dial<'a> {
    state: &'a ServerState,
    /// Waits as the upstream is to wait.
    client: Option<&'a SharedStream>,
    closes_with: &'a ClosesWith,
    request: Option<ConnectionId>,
    endpoint: &'a Endpoint,
    options: &'a ConnectOptions,
    deadline: Instant,
    /// A time limit that is earlier than the timeout.
    within: Option<TimeLimit>,
    current: Arc<Current>,
    #[cfg(feature = "tls")]
    tls: Option<ClientSide>,
}

/// What an attempt has come to.
enum Attempt {
    Connected(Arc<SharedStream>),
    Pending(Arc<SharedStream>),
}

impl<'a> Dial<'a> {
    pub(super) fn new(
        state: &'a ServerState,
        client: Option<&'a SharedStream>,
        closes_with: &'a ClosesWith,
        request: Option<ConnectionId>,
        endpoint: &'a Endpoint,
        options: &'a ConnectOptions,
    ) -> Result<Dial<'a>> {
        let (deadline, current) = (Instant::now() + options.timeout, Current::get());
        let within = TimeLimit::current().filter(|limit| limit.deadline < deadline);
        let deadline = within.map_or(deadline, |limit| limit.deadline);
        #[cfg(feature = "tls")]
        let tls = options.tls.as_ref().map(|tls| tls.side_for(endpoint.host())).transpose()?;
        Ok(Dial {
            state,
            client,
            closes_with,
            request,
            endpoint,
            options,
            deadline,
            within,
            current,
            #[cfg(feature = "tls")]
            tls,
        })
    }

    pub(super) fn connect(&self) -> Result<Arc<SharedStream>> {
        let connected = self.current.doing(Activity::Connecting, || {
            match (self.state.scripted.connect(self.endpoint), self.endpoint.is_unix()) {
                (Some(scripted), _) => self.connect_scripted(scripted),
                (None, true) => self.connect_unix(),
                (None, false) => self.connect_tcp(),
            }
        });
        connected.and_then(|stream| match self.open(&stream) {
            Ok(()) => Ok(stream),
            Err(error) => {
                self.end(&stream);
                Err(match error.kind() {
                    io::ErrorKind::TimedOut if error.raw_os_error().is_none() => self.timed_out(),
                    _ => self.failed(stream.peer(), error),
                })
            }
        })
    }

    /// What comes before the bytes of the handler.
    fn open(&self, stream: &SharedStream) -> io::Result<()> {
        if let Some(header) = &self.options.proxy_header {
            stream.write_carrier(header, self.deadline)?;
        }
        #[cfg(feature = "tls")]
        tls::handshake(stream, self.deadline)?;
        Ok(())
    }

    /// For a unit test: what it has instead of a server at this address.
    fn connect_scripted(
        &self,
        scripted: io::Result<std::os::unix::net::UnixStream>,
    ) -> Result<Arc<SharedStream>> {
        let address = self.endpoint.to_string();
        let stream = scripted.map_err(|source| Error::Connect { address, source })?;
        let peer = Address::tcp((Ipv4Addr::LOCALHOST, 0).into());
        Ok(Arc::new(self.share(SocketStream::from(stream), peer)))
    }

    fn share(&self, socket: SocketStream, peer: Address) -> SharedStream {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return SharedStream::new(Box::new(tls.stream(Box::new(socket))), peer);
        }
        SharedStream::new(Box::new(socket), peer)
    }

    fn connect_unix(&self) -> Result<Arc<SharedStream>> {
        let name = self.endpoint.unix_name(Scheme::Unix)?;
        let (peer, address) = (Address::Unix(name.clone()), name.to_sockaddr());
        let address = address.map_err(|error| self.failed(&peer, error))?;
        loop {
            match self.attempt(Domain::UNIX, &peer, &address) {
                Ok(Attempt::Connected(stream) | Attempt::Pending(stream)) => return Ok(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let now = Instant::now();
                    if now >= self.deadline {
                        return Err(self.timed_out());
                    }
                    self.pause((now + RETRY_INTERVAL).min(self.deadline))?;
                }
                Err(error) => return Err(self.failed(&peer, error)),
            }
        }
    }

    fn connect_tcp(&self) -> Result<Arc<SharedStream>> {
        let found = look_up(self.endpoint, self.deadline)?;
        let mut addresses = VecDeque::from(found.ok_or_else(|| self.timed_out())?);
        let mut attempts = Attempts { dial: self, pending: Vec::new() };
        let mut last_error = None;
        let mut next_start = Instant::now();
        loop {
            if Instant::now() >= next_start
                && let Some(address) = addresses.pop_front()
            {
                let peer = Address::tcp(address);
                match self.attempt(Domain::for_address(address), &peer, &address.into()) {
                    Ok(Attempt::Connected(stream)) => return Ok(stream),
                    Ok(Attempt::Pending(stream)) => {
                        attempts.pending.push(stream);
                        next_start = Instant::now() + ATTEMPT_DELAY;
                    }
                    Err(error) => {
                        last_error = Some(self.failed(&peer, error));
                        continue;
                    }
                }
            }
            if attempts.pending.is_empty() && addresses.is_empty() {
                // There is at least one address.
                return Err(last_error.unwrap_or(Error::Stopped));
            }
            let wake_up = if addresses.is_empty() { self.deadline } else { next_start };
            if let Some(stream) = attempts.wait(wake_up.min(self.deadline), |peer, error| {
                last_error = Some(self.failed(peer, error));
                next_start = Instant::now();
            })? {
                return Ok(stream);
            }
        }
    }

    /// Begins to connect. A stop or a disconnect of the client shuts the socket from now on.
    fn attempt(&self, domain: Domain, peer: &Address, address: &SockAddr) -> io::Result<Attempt> {
        let socket = new_stream(domain)?;
        let is_tcp = domain != Domain::UNIX;
        if is_tcp {
            set_tcp_options(socket.as_fd(), &self.state.settings.transport)?;
        }
        let is_connected = match socket.connect(address) {
            Ok(()) => true,
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => false,
            Err(error) => return Err(error),
        };
        let wait = self.client.and_then(SharedStream::wait_for_upstream);
        if wait.is_none() {
            // For reads and writes that block.
            socket.set_nonblocking(false)?;
        }
        let stream = match is_tcp {
            true => SocketStream::from(std::net::TcpStream::from(socket)),
            false => SocketStream::from(std::os::unix::net::UnixStream::from(socket)),
        };
        let stream = self.share(stream, peer.clone());
        if wait.is_some() {
            let closes_with = self.closes_with.clone();
            stream.wait_with(Box::new(UpstreamWait { wait, closes_with }));
        }
        let stream = Arc::new(stream);
        if let Some(request) = self.request {
            self.state.registry.add_upstream(request, stream.clone());
        }
        Ok(if is_connected { Attempt::Connected(stream) } else { Attempt::Pending(stream) })
    }

    fn pause(&self, until: Instant) -> Result<()> {
        loop {
            match self.current.park(Some(until)) {
                // It was unparked for something else, before.
                Ok(()) => {}
                Err(Interrupted::TimedOut) => return Ok(()),
                Err(stopped) => return Err(stopped.into()),
            }
        }
    }

    fn end(&self, stream: &Arc<SharedStream>) {
        let _ = stream.inner().shutdown(Shutdown::Both);
        deregister(self.state, self.request, stream);
    }

    fn failed(&self, peer: &Address, source: io::Error) -> Error {
        match self.current.is_interrupted() {
            true => Error::Stopped,
            false => Error::Connect { address: peer.to_string(), source },
        }
    }

    fn timed_out(&self) -> Error {
        if let Some(limit) = self.within {
            return limit.error();
        }
        Error::ConnectTimeout { address: self.endpoint.to_string(), limit: self.options.timeout }
    }
}

/// The attempts that have not ended. Dropping it ends them.
struct Attempts<'a> {
    dial: &'a Dial<'a>,
    pending: Vec<Arc<SharedStream>>,
}

impl Attempts<'_> {
    /// Waits for one of them, at most until `wake_up`. Returns the first that is connected, and calls
    /// `on_error` for those that have failed.
    fn wait(
        &mut self,
        wake_up: Instant,
        mut on_error: impl FnMut(&Address, io::Error),
    ) -> Result<Option<Arc<SharedStream>>> {
        let sources: Vec<_> =
            self.pending.iter().map(|stream| stream.source(Interest::Write)).collect();
        let waited = match self.pending.first() {
            Some(first) => first.wait_any(&sources, Some(wake_up)),
            None => return self.dial.pause(wake_up).map(|()| None),
        };
        let ready: Vec<_> = sources.iter().map(|source| source.is_ready()).collect();
        drop(sources);
        if self.dial.current.is_interrupted() {
            return Err(Error::Stopped);
        }
        match waited {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
            waited => waited.map_err(Error::system("wait for a connection"))?,
        }
        for index in (0..ready.len()).rev().filter(|index| ready[*index]) {
            match connected(&self.pending[index]) {
                Ok(()) => return Ok(Some(self.pending.swap_remove(index))),
                Err(error) => {
                    let stream = self.pending.swap_remove(index);
                    self.dial.end(&stream);
                    on_error(stream.peer(), error);
                }
            }
        }
        if Instant::now() >= self.dial.deadline {
            return Err(self.dial.timed_out());
        }
        Ok(None)
    }
}

impl Drop for Attempts<'_> {
    fn drop(&mut self) {
        self.pending.iter().for_each(|stream| self.dial.end(stream));
    }
}

/// Whether an attempt has succeeded that is ready for writing
/// ([connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html), `EINPROGRESS`).
fn connected(stream: &SharedStream) -> io::Result<()> {
    let Some(fd) = stream.inner().as_fd() else { return Ok(()) };
    SockRef::from(&fd).take_error()?.map_or(Ok(()), Err)
}
