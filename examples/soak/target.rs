//! An address that outlives its servers, and what clients may expect of the one behind it now.

use std::fmt::Display;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use parking_lot::{Mutex, RwLock};
use rustix::net::SocketAddrUnix;
use socket2::{SockAddr, Socket, Type};
use socketserver::{Endpoint, HandlerError, RunningServer, Scheme};

use crate::servers::{Kind, Who};
use crate::tally::{Count, complain, note};
use crate::{PATIENCE, Soak, forking};

/// How long a stop may take. That is much: no client can hold one up for more than some seconds.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) count: Count,
    endpoint: Endpoint,
    address: SockAddr,
    server: Mutex<Option<Running>>,
    /// Read while a request is sent, written to before a stop: so each request was either sent
    /// wholly before the stop began, or knows that it was not.
    gate: RwLock<Stopping>,
}

enum Running {
    Here(RunningServer),
    Elsewhere(Child),
}

/// Whether one certain server has been told to stop.
pub(crate) type Stopping = Arc<AtomicBool>;

impl Target {
    pub(crate) fn start(kind: Kind, folder: &Path) -> Result<Target, HandlerError> {
        let path = folder.join(kind.name.replace([',', ' '], "-"));
        // Clients come from 127.0.0.1: so none of them can have a server's port while the server
        // is being started anew.
        let endpoint: Endpoint = match kind.scheme {
            Scheme::Tcp => "tcp://127.0.0.2:0".parse()?,
            Scheme::Udp => "udp://127.0.0.2:0".parse()?,
            Scheme::Unix | Scheme::UnixDatagram => path.as_path().try_into()?,
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        };
        let (server, endpoint) = start(&kind, &endpoint)?;
        let address = match kind.scheme {
            Scheme::Tcp | Scheme::Udp => endpoint.resolve(kind.scheme)?[0].into(),
            Scheme::Unix | Scheme::UnixDatagram => SockAddr::unix(path)?,
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        };
        let (server, gate) = (Mutex::new(Some(server)), RwLock::default());
        Ok(Target { kind, count: Count::default(), endpoint, address, server, gate })
    }

    /// A socket that is connected to the server. `None` between a stop and the next start, when
    /// there is nobody to connect to.
    pub(crate) fn connect(&self) -> Option<(Socket, Stopping)> {
        let stopping = self.gate.read();
        match self.socket().and_then(|socket| socket.connect(&self.address).map(|()| socket)) {
            Ok(socket) => return Some((socket, stopping.clone())),
            Err(_) if stopping.load(SeqCst) => {}
            Err(error) => self.complain(format!("cannot connect: {error}")),
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
            // Bound to no name it is given one, to be answered by.
            Scheme::UnixDatagram => rustix::net::bind(&socket, &SocketAddrUnix::new_unnamed())?,
            scheme => unreachable!("no server of this kind: {scheme:?}"),
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Holds up a stop for as long as the guard lives. Whether none has begun: what is sent now
    /// must then be answered.
    pub(crate) fn gate(&self, stopping: &AtomicBool) -> (impl Drop, bool) {
        let gate = self.gate.read();
        (gate, !stopping.load(SeqCst))
    }

    pub(crate) fn stop(&self) {
        let Some(server) = self.server.lock().take() else { return };
        self.gate.write().store(true, SeqCst);
        note("stops", "servers stopped", 1);
        match server {
            Running::Here(server) => {
                let (handle, begun) = (server.handle(), Instant::now());
                self.kind.audit(&server.stop(DEADLINE), &handle);
                if begun.elapsed() > DEADLINE {
                    self.complain(format!("a stop took {:?}", begun.elapsed()));
                }
            }
            Running::Elsewhere(child) => {
                if let Err(error) = forking::stop(child) {
                    self.complain(error);
                }
            }
        }
    }

    fn start_anew(&self) {
        match start(&self.kind, &self.endpoint) {
            Ok((server, _)) => {
                *self.server.lock() = Some(server);
                *self.gate.write() = Stopping::default();
            }
            Err(error) => self.complain(format!("no new start: {error}")),
        }
    }

    pub(crate) fn complain(&self, what: impl Display) {
        complain(format!("{}: {what}", self.kind.name));
    }
}

fn start(kind: &Kind, endpoint: &Endpoint) -> Result<(Running, Endpoint), HandlerError> {
    if kind.who == Who::Processes {
        let (child, endpoint) = forking::start(endpoint)?;
        return Ok((Running::Elsewhere(child), endpoint));
    }
    let server = kind.spawn(endpoint)?;
    let endpoint = server.local_addr().into();
    Ok((Running::Here(server), endpoint))
}

/// Keeps changing the servers, until it is over.
pub(crate) fn disturb(soak: &Soak, random: &mut Rng) {
    while !soak.is_over() {
        thread::sleep(Duration::from_millis(random.u64(..300)));
        let target = &soak.targets[random.usize(..soak.targets.len())];
        let what = random.u8(..5);
        if what < 2 {
            target.stop();
            target.start_anew();
        } else if let Some(Running::Here(server)) = &*target.server.lock() {
            if what == 2 {
                server.set_max_connections(random.usize(8..=40));
                note("disturbances", "another limit", 1);
            } else {
                server.suspend();
                thread::sleep(Duration::from_millis(random.u64(..200)));
                server.resume();
                note("disturbances", "suspended", 1);
            }
        }
    }
}
