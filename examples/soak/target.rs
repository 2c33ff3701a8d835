//! An address that outlives its servers, and what clients may expect of the one behind it now.

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
use crate::tally::{Count, Tally};
use crate::{PATIENCE, Soak, forking};

/// How long a stop has that lets everybody end by himself, and one that may cut them off.
pub(crate) const GRACEFUL: Duration = Duration::from_secs(20);
const HARD: Duration = Duration::from_secs(1);

pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) count: Count,
    endpoint: Endpoint,
    address: SockAddr,
    server: Mutex<Option<Running>>,
    /// Read while a request is sent, written to before a stop: so each request was either sent
    /// wholly before the stop began, or knows that it was not.
    gate: RwLock<Arc<Life>>,
}

enum Running {
    Here(RunningServer),
    Elsewhere(Child),
}

/// What clients can know of one server.
#[derive(Default)]
pub(crate) struct Life {
    stopping: AtomicBool,
    hard: AtomicBool,
}

impl Life {
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Whether it was stopped without time for answers.
    pub(crate) fn ended_hard(&self) -> bool {
        self.hard.load(SeqCst)
    }
}

impl Target {
    pub(crate) fn start(kind: Kind, folder: &Path) -> Result<Target, HandlerError> {
        let path = folder.join(kind.name.replace([',', ' '], "-"));
        // Clients come from 127.0.0.1: so none of them can have a server's port while the server
        // is being started anew.
        let endpoint: Endpoint = match kind.scheme {
            Scheme::Tcp => "tcp://127.0.0.2:0".parse()?,
            Scheme::Udp => "udp://127.0.0.2:0".parse()?,
            Scheme::Unix | Scheme::UnixDatagram => path.as_path().try_into()?,
        };
        let (server, endpoint) = start(&kind, &endpoint)?;
        let address = match kind.scheme {
            Scheme::Tcp | Scheme::Udp => endpoint.resolve(kind.scheme)?[0].into(),
            Scheme::Unix | Scheme::UnixDatagram => SockAddr::unix(path)?,
        };
        let (server, gate) = (Mutex::new(Some(server)), RwLock::default());
        Ok(Target { kind, count: Count::default(), endpoint, address, server, gate })
    }

    /// A socket that is connected to the server, and the server's life. `None` between a stop and
    /// the next start, when there is nobody to connect to.
    pub(crate) fn connect(&self, tally: &Tally) -> Option<(Socket, Arc<Life>)> {
        let life = self.gate.read();
        match self.socket().and_then(|socket| socket.connect(&self.address).map(|()| socket)) {
            Ok(socket) => return Some((socket, life.clone())),
            Err(_) if life.is_stopping() => {}
            Err(error) => tally.complain(format!("{}: cannot connect: {error}", self.kind.name)),
        }
        drop(life);
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
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket)
    }

    /// Holds up a stop for as long as the guard lives. Whether none had begun: what is sent now
    /// must then be answered.
    pub(crate) fn gate(&self, life: &Life) -> (impl Drop, bool) {
        let gate = self.gate.read();
        (gate, !life.is_stopping())
    }

    pub(crate) fn stop(&self, hard: bool, tally: &Tally) {
        let Some(server) = self.server.lock().take() else { return };
        let life = self.gate.write();
        life.hard.store(hard, SeqCst);
        life.stopping.store(true, SeqCst);
        drop(life);
        tally.note("stops", if hard { "hard" } else { "graceful" }, 1);
        let (name, begun) = (self.kind.name, Instant::now());
        match server {
            Running::Here(server) => {
                let (handle, deadline) = (server.handle(), if hard { HARD } else { GRACEFUL });
                self.kind.audit(hard, &server.stop(deadline), &handle, tally);
                if begun.elapsed() > deadline + PATIENCE / 10 {
                    tally.complain(format!("{name}: a stop took {:?}", begun.elapsed()));
                }
            }
            Running::Elsewhere(child) => {
                if let Err(error) = forking::stop(child) {
                    tally.complain(format!("{name}: {error}"));
                }
            }
        }
    }

    fn start_anew(&self, tally: &Tally) {
        match start(&self.kind, &self.endpoint) {
            Ok((server, _)) => {
                *self.server.lock() = Some(server);
                *self.gate.write() = Arc::default();
            }
            Err(error) => tally.complain(format!("{}: no new start: {error}", self.kind.name)),
        }
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
        thread::sleep(Duration::from_millis(random.u64(..500)));
        let target = &soak.targets[random.usize(..soak.targets.len())];
        let what = random.u8(..5);
        if what < 2 {
            target.stop(random.u8(..4) == 0, &soak.tally);
            target.start_anew(&soak.tally);
        } else if let Some(Running::Here(server)) = &*target.server.lock() {
            if what == 2 {
                server.set_max_connections(random.usize(8..=40));
                soak.tally.note("disturbances", "another limit", 1);
            } else {
                server.suspend();
                thread::sleep(Duration::from_millis(random.u64(..200)));
                server.resume();
                soak.tally.note("disturbances", "suspended", 1);
            }
        }
    }
}
