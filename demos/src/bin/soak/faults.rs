//! Faulty clients. The server must close their connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::servers::{MAX_DATAGRAM, Service};
use crate::streams::Session;
use crate::tally::count_event;
use crate::target::{Stopping, Target};
use crate::{Soak, TIMEOUT};

/// The name of a fault, and a client that commits it.
type Fault = (&'static str, fn(&Client, &mut Rng) -> io::Result<()>);

struct Client<'a> {
    socket: Socket,
    target: &'a Target,
    stopping: Stopping,
}

const STREAM_FAULTS: [Fault; 8] = [
    ("reset", reset),
    ("close at once", |_, _| Ok(())),
    ("close inside a message", close_inside),
    ("stay silent", |client, _| until_the_end(&client.socket)),
    ("endless line", endless_line),
    ("garbage", garbage),
    ("panic", |client, _| command(client, "panic")),
    ("fail", |client, _| command(client, "fail")),
];

/// Not for a chat, where the messages of other members would disturb these faults.
const ECHO_STREAM_FAULTS: [Fault; 2] = [("drip", drip), ("never read", never_read)];

const DATAGRAM_FAULTS: [Fault; 4] = [
    ("too long", |client, _| send(client, &[b'x'; MAX_DATAGRAM + 1])),
    ("empty", |client, _| send(client, b"")),
    ("panic", |client, _| send(client, b"panic")),
    ("fail", |client, _| send(client, b"fail")),
];

/// How many good clients connect at a time.
const CROWD: usize = 24;

pub(crate) fn run(soak: &Soak, random: &mut Rng) {
    while !soak.is_over() {
        let target = &soak.targets[random.usize(..soak.targets.len())];
        let faults = match (target.kind.is_stream(), target.kind.service, random.u8(..10)) {
            (false, ..) => &DATAGRAM_FAULTS[..],
            (true, Service::Lines | Service::Frames, 0) => {
                count_event("faults", "crowd", 1);
                crowd(target, random);
                continue;
            }
            (true, Service::Lines | Service::Frames, 1..3) => &ECHO_STREAM_FAULTS,
            _ => &STREAM_FAULTS,
        };
        let (name, fault) = faults[random.usize(..faults.len())];
        let Some((socket, stopping)) = target.connect() else { continue };
        count_event("faults", name, 1);
        // Any other end is up to the server.
        if let Err(error) = fault(&Client { socket, target, stopping }, random)
            && error.kind() == ErrorKind::WouldBlock
        {
            target.record_failure(format!("still connected {TIMEOUT:?} after {name:?}"));
        }
        thread::sleep(Duration::from_millis(random.u64(..30)));
    }
}

/// Many good clients at a time: more than some servers accept, which must refuse the others.
fn crowd(target: &Target, random: &mut Rng) {
    let open = |_| Session::open(target);
    let mut sessions: Vec<_> = (0..CROWD).filter_map(open).collect();
    for session in &mut sessions {
        session.ask(1, random);
    }
    for mut session in sessions {
        session.half_close();
        session.end();
    }
}

/// Reads until the server closes the connection.
fn until_the_end(mut socket: &Socket) -> io::Result<()> {
    let deadline = Instant::now() + TIMEOUT;
    let mut waste = [0; 4096];
    loop {
        match socket.read(&mut waste) {
            Ok(0) => return Ok(()),
            Ok(_) if Instant::now() > deadline => return Err(ErrorKind::WouldBlock.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn send(client: &Client, bytes: &[u8]) -> io::Result<()> {
    (&client.socket).write_all(bytes)
}

fn reset(client: &Client, random: &mut Rng) -> io::Result<()> {
    for _ in 0..random.usize(..4) {
        send(client, &client.target.kind.request("never to be answered"))?;
    }
    // With a linger time of 0, closing sends a RST.
    client.socket.set_linger(Some(Duration::ZERO))
}

fn close_inside(client: &Client, random: &mut Rng) -> io::Result<()> {
    let request = client.target.kind.request("not all of this");
    send(client, &request[..random.usize(..request.len())])
}

fn drip(client: &Client, random: &mut Rng) -> io::Result<()> {
    let pause = Duration::from_millis(random.u64(1..=50));
    // More bytes than the timeouts allow.
    for byte in client.target.kind.request(&"x".repeat(10_000)) {
        send(client, &[byte])?;
        thread::sleep(pause);
    }
    Err(ErrorKind::WouldBlock.into())
}

/// Sends requests without reading the answers, for longer than the server's write timeout.
fn never_read(client: &Client, random: &mut Rng) -> io::Result<()> {
    client.socket.set_recv_buffer_size(4096)?;
    let request = client.target.kind.request(&"x".repeat(1000));
    let resets = random.bool();
    write_on(client, &request, 10 * client.target.kind.limit(), || {
        resets && client.stopping.load(SeqCst)
    })
}

fn endless_line(client: &Client, _: &mut Rng) -> io::Result<()> {
    write_on(client, &[b'x'; 4096], Duration::from_secs(1), || false)
}

/// Writes the same bytes until no write has succeeded for this time, and then reads to see whether
/// the server has closed: a write into a full buffer does not report that.
fn write_on(
    client: &Client,
    bytes: &[u8],
    pause: Duration,
    leaves: impl Fn() -> bool,
) -> io::Result<()> {
    client.socket.set_write_timeout(Some(pause / 20))?;
    let (begun, mut progress) = (Instant::now(), Instant::now());
    while progress.elapsed() < pause {
        match (&client.socket).write(bytes) {
            Ok(_) if begun.elapsed() > TIMEOUT => return Err(ErrorKind::WouldBlock.into()),
            Ok(_) => progress = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if leaves() {
            return Ok(());
        }
    }
    until_the_end(&client.socket)
}

fn garbage(client: &Client, random: &mut Rng) -> io::Result<()> {
    let mut garbage = vec![0; random.usize(1..4096)];
    random.fill(&mut garbage);
    send(client, &garbage)?;
    client.socket.shutdown(Shutdown::Write)?;
    until_the_end(&client.socket)
}

fn command(client: &Client, command: &str) -> io::Result<()> {
    send(client, &client.target.kind.request(command))?;
    until_the_end(&client.socket)
}
