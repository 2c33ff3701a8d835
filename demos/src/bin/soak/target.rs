//! An address whose server is stopped and started again, and what its clients may expect.

use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::{Mutex, RwLock};
use rustix::net::SocketAddrUnix;
use socket2::{SockAddr, Socket, Type};
use socketserver::{Endpoint, HandlerError, RunningServer, Scheme};

use crate::process::{ProcessGroup, ServerProcess};
use crate::servers::{Kind, STOP_TIMEOUT};
use crate::tally::{Count, count_event, record_failure};
use crate::{Soak, TIMEOUT};

pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) count: Count,
    /// Whether the server runs in a process of its own.
    has_process: bool,
    endpoint: Endpoint,
    address: SockAddr,
    server: Mutex<Option<Running>>,
    /// Locked for reading while a request is sent, and for writing before a stop. So each request
    /// was sent completely before the stop began, or its client knows that it was not.
    gate: RwLock<Stopping>,
}

enum Running {
    InProcess(RunningServer),
    OwnProcess(ServerProcess),
}

impl Running {
    /// Whether the server can be, and is, set to another limit.
    fn set_max_connections(&self, connections: usize) -> bool {
        match self {
            Running::InProcess(server) => server.handle().set_max_connections(connections),
            Running::OwnProcess(server) => return server.send(&connections.to_string()),
        }
        true
    }

    fn suspend(&self) -> bool {
        match self {
            Running::InProcess(server) => server.suspend(),
            Running::OwnProcess(server) => return server.send("suspend"),
        }
        true
    }

    fn resume(&self) {
        match self {
            Running::InProcess(server) => server.resume(),
            Running::OwnProcess(server) => _ = server.send("resume"),
        }
    }
}

/// Whether a stop of one particular server has begun.
pub(crate) type Stopping = Arc<AtomicBool>;

impl Target {
    /// With `freezes`, the server runs in a process of its own, whatever its kind.
    pub(crate) fn start(kind: Kind, folder: &Path, freezes: bool) -> Result<Target, HandlerError> {
        let has_process = freezes || kind.concurrency.forking().is_some();
        let path = folder.join(kind.name.replace([',', ' '], "-"));
        // Clients connect from 127.0.0.1, so none of them can occupy the address of a server while
        // the server is restarted.
        let endpoint: Endpoint = match kind.scheme {
            Scheme::Tcp => "tcp://127.0.0.2:0".parse()?,
            Scheme::Udp => "udp://127.0.0.2:0".parse()?,
            Scheme::Unix | Scheme::UnixDatagram => path.as_path().try_into()?,
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        };
        let (server, endpoint) = start(&kind, &endpoint, has_process)?;
        let address = match kind.scheme {
            Scheme::Tcp | Scheme::Udp => endpoint.resolve(kind.scheme)?[0].into(),
            Scheme::Unix | Scheme::UnixDatagram => SockAddr::unix(path)?,
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        };
        let (server, gate) = (Mutex::new(Some(server)), RwLock::default());
        Ok(Target { kind, count: Count::default(), has_process, endpoint, address, server, gate })
    }

    /// A socket that is connected to the server; `None` between a stop and the next start.
    pub(crate) fn connect(&self) -> Option<(Socket, Stopping)> {
        let stopping = self.gate.read();
        match self.socket().and_then(|socket| socket.connect(&self.address).map(|()| socket)) {
            Ok(socket) => return Some((socket, stopping.clone())),
            Err(_) if stopping.load(SeqCst) => {}
            Err(error) => self.record_failure(format!("cannot connect: {error}")),
        }
        drop(stopping);
        thread::sleep(Duration::from_millis(5));
        None
    }

    fn socket(&self) -> io::Result<Socket> {
        let kind = if self.kind.is_stream() { Type::STREAM } else { Type::DGRAM };
        let socket = Socket::new(self.address.domain(), kind, None)?;
        match self.kind.scheme {
            Scheme::Tcp => socket.set_tcp_nodelay(true)?,
            Scheme::Udp => socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?,
            Scheme::Unix => {}
            // The kernel chooses the name (autobind), so that the server can reply.
            Scheme::UnixDatagram => rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?,
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        }
        socket.set_read_timeout(Some(TIMEOUT))?;
        socket.set_write_timeout(Some(TIMEOUT))?;
        Ok(socket)
    }

    /// A guard that delays a stop until it is dropped, and whether none has begun: then a request
    /// that is sent under the guard must be answered.
    pub(crate) fn gate(&self, stopping: &AtomicBool) -> (impl Drop, bool) {
        let gate = self.gate.read();
        (gate, !stopping.load(SeqCst))
    }

    pub(crate) fn stop(&self) {
        let Some(server) = self.server.lock().take() else { return };
        self.gate.write().store(true, SeqCst);
        count_event("stops", "servers stopped", 1);
        match server {
            Running::InProcess(server) => {
                let (handle, begun) = (server.handle(), Instant::now());
                self.kind.audit(&server.stop(STOP_TIMEOUT), &handle);
                if begun.elapsed() > STOP_TIMEOUT {
                    self.record_failure(format!("a stop took {:?}", begun.elapsed()));
                }
            }
            Running::OwnProcess(server) => {
                if let Err(error) = server.stop() {
                    self.record_failure(error);
                }
            }
        }
    }

    fn restart(&self) {
        match start(&self.kind, &self.endpoint, self.has_process) {
            Ok((server, _)) => {
                *self.server.lock() = Some(server);
                *self.gate.write() = Stopping::default();
            }
            Err(error) => self.record_failure(format!("no new start: {error}")),
        }
    }

    /// Stops all threads of the server's processes, until the group is thawed. `None`: there is no
    /// server at present, or it runs in this process.
    fn freeze(&self) -> Option<ProcessGroup> {
        // Locked, so that the server does not end before it is frozen.
        let server = self.server.lock();
        let Some(Running::OwnProcess(server)) = &*server else { return None };
        let group = server.group();
        match group.freeze() {
            Ok(()) => Some(group),
            Err(error) => {
                self.record_failure(format!("cannot be frozen: {error}"));
                None
            }
        }
    }

    pub(crate) fn record_failure(&self, what: impl Display) {
        record_failure(format!("{}: {what}", self.kind.name));
    }
}

fn start(
    kind: &Kind,
    endpoint: &Endpoint,
    has_process: bool,
) -> Result<(Running, Endpoint), HandlerError> {
    if has_process {
        let (server, endpoint) = ServerProcess::start(kind, endpoint)?;
        return Ok((Running::OwnProcess(server), endpoint));
    }
    let server = kind.spawn(endpoint)?;
    let endpoint = server.local_addr().into();
    Ok((Running::InProcess(server), endpoint))
}

/// Stops, restarts and reconfigures the servers until the end.
pub(crate) fn disturb(soak: &Soak, random: &mut Rng) {
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(random.u64(..300)));
        let target = &soak.targets[random.usize(..soak.targets.len())];
        let what = random.u8(..5);
        if what < 2 {
            target.stop();
            target.restart();
        } else if let Some(server) = &*target.server.lock() {
            if what == 2 {
                let is_set = server.set_max_connections(random.usize(8..=40));
                count_event("disturbances", "another limit", is_set.into());
            } else if server.suspend() {
                thread::sleep(Duration::from_millis(random.u64(..200)));
                server.resume();
                count_event("disturbances", "suspended", 1);
            }
        }
    }
}

/// Freezes processes of servers until the end: one, some or all at a time, as a busy machine or
/// Ctrl-Z does.
pub(crate) fn freeze(soak: &Soak, random: &mut Rng) {
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(random.u64(..1000)));
        let chance = [0.05, 0.3, 1.0][random.usize(..3)];
        let chosen = soak.targets.iter().filter(|_| random.f64() < chance);
        let frozen: Vec<_> = chosen.filter_map(Target::freeze).collect();
        thread::sleep(Duration::from_millis(random.u64(100..2000)));
        for group in &frozen {
            if let Err(error) = group.thaw() {
                record_failure(format!("a frozen server cannot go on: {error}"));
            }
        }
        count_event("disturbances", "frozen", frozen.len() as u64);
    }
}
