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

/// How long one write of a client waits that writes without end.
const WRITE_SLICE: Duration = Duration::from_millis(50);

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

/// Sends requests without reading the answers, until the server closes.
///
/// Much later than the server's write timeout it reads once: the server's RST may have been outside
/// the window, and the window update brings another. To read on would be no fault: through a receive
/// buffer this small, answers of megabytes take minutes, and a server waits for a slow reader.
fn never_read(client: &Client, random: &mut Rng) -> io::Result<()> {
    client.socket.set_recv_buffer_size(4096)?;
    client.socket.set_write_timeout(Some(WRITE_SLICE))?;
    client.socket.set_read_timeout(Some(WRITE_SLICE))?;
    let request = client.target.kind.request(&"x".repeat(1000));
    let resets = random.bool();
    let (begun, mut progress) = (Instant::now(), Instant::now());
    while begun.elapsed() < TIMEOUT {
        if write_some(client, &request)? {
            progress = Instant::now();
        } else if progress.elapsed() > 10 * client.target.kind.limit() {
            progress = Instant::now();
            match (&client.socket).read(&mut [0; 16 * 1024]) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        if resets && client.stopping.load(SeqCst) {
            return Ok(());
        }
    }
    if !is_closed_by_server(&client.socket)? {
        return Err(ErrorKind::WouldBlock.into());
    }
    count_event("faults", "closed unseen", 1);
    Ok(())
}

/// Whether the server has closed its end, though this one does not see it yet: Linux still delivers what
/// was sent before, and that takes minutes at this rate. A client whose window is closed also drops the
/// acknowledgements of what it has sent, so that the server may have waited for input, not for room.
fn is_closed_by_server(socket: &Socket) -> io::Result<bool> {
    let Some(address) = socket.local_addr()?.as_socket() else { return Ok(false) };
    // As in `0: 0200007F:9C40 0100007F:8A21 01 ...`; the tenth column is 0 for a socket without a process.
    let client = format!(":{:04X}", address.port());
    let sockets = std::fs::read_to_string("/proc/net/tcp")?;
    let mut ends = sockets.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let server_end = ends.find(|end| end.get(2).is_some_and(|remote| remote.ends_with(&client)));
    Ok(server_end.is_none_or(|end| end.get(9) == Some(&"0")))
}

/// Writes until no write has succeeded for a second, and then reads to see whether the server has
/// closed: a write into a full buffer does not report that.
fn endless_line(client: &Client, _: &mut Rng) -> io::Result<()> {
    client.socket.set_write_timeout(Some(WRITE_SLICE))?;
    let (begun, mut progress) = (Instant::now(), Instant::now());
    while progress.elapsed() < Duration::from_secs(1) {
        if write_some(client, &[b'x'; 4096])? {
            progress = Instant::now();
        }
        if begun.elapsed() > TIMEOUT {
            return Err(ErrorKind::WouldBlock.into());
        }
    }
    until_the_end(&client.socket)
}

/// Whether there was room for something.
fn write_some(client: &Client, bytes: &[u8]) -> io::Result<bool> {
    match (&client.socket).write(bytes) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
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
