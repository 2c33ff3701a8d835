//! Clients that are slow or hostile. All of them run on one thread beside the test, without blocking.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::TIMEOUT;
use crate::support::clients::read_until_closed;

/// What a client does in each of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Sends one byte of an endless line, and reads one byte.
    Drips,
    /// Sends as many requests as it can, and reads nothing.
    NeverReads,
    /// Sends and reads nothing.
    IsSilent,
    /// Sends a request, shuts down its writes, reads nothing, and does not close.
    HalfCloses,
    /// Sends a request, resets the connection, and connects again.
    Resets,
}

/// How many of a hundred clients behave so.
const SHARES: [(Behaviour, usize); 5] = [
    (Behaviour::Drips, 25),
    (Behaviour::NeverReads, 25),
    (Behaviour::IsSilent, 15),
    (Behaviour::HalfCloses, 10),
    (Behaviour::Resets, 25),
];

/// The time between two ticks. In each tick, one of the clients that reset has a step, and so many of
/// the others that each has one in a second.
const TICK: Duration = Duration::from_millis(20);
const TICKS_A_SECOND: usize = 50;

/// What they send: one request, or many at once.
struct Requests {
    one: &'static [u8],
    many: Vec<u8>,
}

pub(crate) struct SlowClients {
    server: SocketAddr,
    requests: Requests,
    clients: Vec<Client>,
}

struct Client {
    behaviour: Behaviour,
    stream: TcpStream,
}

/// The clients while their thread runs.
pub(crate) struct Running {
    thread: JoinHandle<SlowClients>,
    stop: Arc<AtomicBool>,
    steps: Arc<AtomicUsize>,
}

impl SlowClients {
    /// Connects so many clients, which will send this request again and again.
    pub(crate) fn connect(
        server: SocketAddr,
        number: usize,
        request: &'static [u8],
    ) -> SlowClients {
        let behaviours = SHARES.into_iter().flat_map(|(behaviour, percent)| {
            std::iter::repeat_n(behaviour, number * percent / 100)
        });
        let clients =
            behaviours.map(|behaviour| Client { behaviour, stream: connect(server) }).collect();
        let requests = Requests { one: request, many: request.repeat(40) };
        SlowClients { server, requests, clients }
    }

    /// Starts their thread.
    pub(crate) fn start(mut self) -> Running {
        let (stop, steps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (is_stopped, count) = (stop.clone(), steps.clone());
        let thread = thread::spawn(move || {
            for tick in 0.. {
                if is_stopped.load(Ordering::Relaxed) {
                    break;
                }
                count.fetch_add(self.tick(tick), Ordering::Relaxed);
                thread::sleep(TICK);
            }
            self
        });
        Running { thread, stop, steps }
    }

    /// Runs a step of some of them. Returns of how many.
    fn tick(&mut self, tick: usize) -> usize {
        let SlowClients { server, requests, clients } = self;
        let (resets, others): (Vec<_>, Vec<_>) =
            clients.iter_mut().partition(|client| client.behaviour == Behaviour::Resets);
        let next = tick % resets.len();
        let resets = resets.into_iter().skip(next).take(1);
        let others = others.into_iter().skip(tick % TICKS_A_SECOND).step_by(TICKS_A_SECOND);
        resets.chain(others).map(|client| client.step(*server, requests)).count()
    }

    /// The names by which the server knows those that are still connected.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let staying =
            self.clients.iter().filter(|client| client.behaviour != Behaviour::HalfCloses);
        staying.map(|client| client.stream.local_addr().unwrap().to_string())
    }

    /// Some of them, of each behaviour, read all that they are sent, until the server closes.
    pub(crate) fn some_read_to_the_end(self) {
        let every = self.clients.len() / 40;
        for client in self.clients.into_iter().step_by(every) {
            client.stream.set_nonblocking(false).unwrap();
            client.stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            read_until_closed(client.stream);
        }
    }
}

impl Running {
    /// Stops their thread. They stay connected.
    pub(crate) fn pause(self) -> SlowClients {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }

    /// The number of steps of all of them.
    pub(crate) fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }
}

impl Client {
    fn step(&mut self, server: SocketAddr, requests: &Requests) {
        // Failures are ignored: the server may have closed the connection.
        match self.behaviour {
            Behaviour::Drips => {
                let _ = self.stream.write(b"x");
                let _ = self.stream.read(&mut [0]);
            }
            Behaviour::NeverReads => while matches!(self.stream.write(&requests.many), Ok(1..)) {},
            Behaviour::IsSilent => {}
            Behaviour::HalfCloses => {
                let _ = self.stream.write(requests.one);
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Behaviour::Resets => {
                let _ = self.stream.write(requests.one);
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
                self.stream = connect(server);
            }
        }
    }
}

/// Connects with the smallest receive buffer and small segments, so that two thousand clients that do
/// not read cost the system little memory, and writes to them soon block.
fn connect(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.set_tcp_mss(256).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}
