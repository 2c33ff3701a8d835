//! A crowd of clients that mean no good. All of them live on one thread of the test, which gives
//! each its turn, and none of them makes the others wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::common::TIMEOUT;

/// What a client does when it has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Sends one byte of a line that never ends, and takes one of what it is sent.
    Drips,
    /// Asks for as much as it can, and never takes any of it.
    IsDeaf,
    /// Is connected, and that is all.
    IsSilent,
    /// Asks for something, shuts its sending side, takes nothing, and never closes.
    HalfCloses,
    /// Asks, resets the connection, and comes again.
    Resets,
}

/// How many of a hundred.
const MANNERS: [(Manner, usize); 5] = [
    (Manner::Drips, 25),
    (Manner::IsDeaf, 25),
    (Manner::IsSilent, 15),
    (Manner::HalfCloses, 10),
    (Manner::Resets, 25),
];

/// How often some of them have their turn: one of those that reset, and of the others as many as
/// gives each a turn in a second.
const TICK: Duration = Duration::from_millis(20);
const TICKS_A_SECOND: usize = 50;

/// What they ask for: one question, or many at once.
struct Asks {
    one: &'static [u8],
    many: Vec<u8>,
}

pub(crate) struct Crowd {
    server: SocketAddr,
    asks: Asks,
    clients: Vec<Client>,
}

struct Client {
    manner: Manner,
    stream: TcpStream,
}

/// A crowd that is at it.
pub(crate) struct Misbehaving {
    thread: JoinHandle<Crowd>,
    is_over: Arc<AtomicBool>,
    turns: Arc<AtomicUsize>,
}

impl Crowd {
    /// Connects so many clients, who will ask for this, again and again.
    pub(crate) fn connect(server: SocketAddr, number: usize, asks: &'static [u8]) -> Crowd {
        let manners = MANNERS
            .into_iter()
            .flat_map(|(manner, percent)| std::iter::repeat_n(manner, number * percent / 100));
        let clients = manners.map(|manner| Client { manner, stream: connect(server) }).collect();
        Crowd { server, asks: Asks { one: asks, many: asks.repeat(40) }, clients }
    }

    /// Begins to do what they do, until they are told to [`pause`](Misbehaving::pause).
    pub(crate) fn misbehave(mut self) -> Misbehaving {
        let (is_over, turns) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (over, count) = (is_over.clone(), turns.clone());
        let thread = thread::spawn(move || {
            for tick in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                count.fetch_add(self.tick(tick), Ordering::Relaxed);
                thread::sleep(TICK);
            }
            self
        });
        Misbehaving { thread, is_over, turns }
    }

    /// Gives a part of them their turn; says to how many.
    fn tick(&mut self, tick: usize) -> usize {
        let Crowd { server, asks, clients } = self;
        let (resets, others): (Vec<_>, Vec<_>) =
            clients.iter_mut().partition(|client| client.manner == Manner::Resets);
        let who_resets = tick % resets.len();
        let resets = resets.into_iter().skip(who_resets).take(1);
        let others = others.into_iter().skip(tick % TICKS_A_SECOND).step_by(TICKS_A_SECOND);
        resets.chain(others).map(|client| client.act(*server, asks)).count()
    }

    /// What the server calls those who are still connected, as far as they know.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> {
        let staying = self.clients.iter().filter(|client| client.manner != Manner::HalfCloses);
        staying.map(|client| client.stream.local_addr().unwrap().to_string())
    }

    /// Some of them, of each manner, take what they were sent at last, and come to an end.
    pub(crate) fn some_read_to_the_end(self) {
        let every = self.clients.len() / 40;
        for client in self.clients.into_iter().step_by(every) {
            let Client { manner, mut stream } = client;
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            match io::copy(&mut stream, &mut io::sink()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                Err(error) => panic!("{manner:?}: {error}"),
            }
        }
    }
}

impl Misbehaving {
    /// They cease to do anything, and stay connected.
    pub(crate) fn pause(self) -> Crowd {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }

    /// How many of them have had their turn, each as often as it had one.
    pub(crate) fn turns(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }
}

impl Client {
    fn act(&mut self, server: SocketAddr, asks: &Asks) {
        // What comes of it does not matter to them: the server may have ended the connection.
        match self.manner {
            Manner::Drips => {
                let _ = self.stream.write(b"x");
                let _ = self.stream.read(&mut [0]);
            }
            Manner::IsDeaf => while matches!(self.stream.write(&asks.many), Ok(1..)) {},
            Manner::IsSilent => {}
            Manner::HalfCloses => {
                let _ = self.stream.write(asks.one);
                let _ = self.stream.shutdown(Shutdown::Write);
            }
            Manner::Resets => {
                let _ = self.stream.write(asks.one);
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
                self.stream = connect(server);
            }
        }
    }
}

/// Connects with the smallest window there is, and small segments: so two thousand clients that
/// take nothing cost the system little memory, and the server soon has no room to write to them.
fn connect(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_send_buffer_size(4096).unwrap();
    socket.set_tcp_mss(256).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.into()
}
