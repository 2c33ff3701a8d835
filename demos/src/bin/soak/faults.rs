//! Clients of the worst manners. All that is asked of them is that the server gets rid of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::servers::{LONGEST_DATAGRAM, Service};
use crate::streams::Session;
use crate::tally::note;
use crate::target::{Stopping, Target};
use crate::{PATIENCE, Soak};

/// A fault, and whom it is about to be done to.
type Fault = (&'static str, fn(&Visit, &mut Rng) -> io::Result<()>);

struct Visit<'a> {
    socket: Socket,
    target: &'a Target,
    stopping: Stopping,
}

const OF_STREAMS: [Fault; 8] = [
    ("reset", reset),
    ("close at once", |_, _| Ok(())),
    ("close inside a message", close_inside),
    ("stay silent", |visit, _| until_the_end(&visit.socket)),
    ("endless line", endless_line),
    ("garbage", garbage),
    ("panic", |visit, _| command(visit, "panic")),
    ("fail", |visit, _| command(visit, "fail")),
];

/// Not for a chat, where others talk that these do not listen to.
const OF_OTHER_STREAMS: [Fault; 2] = [("drip", drip), ("never read", never_read)];

const OF_DATAGRAMS: [Fault; 4] = [
    ("too long", |visit, _| send(visit, &[b'x'; LONGEST_DATAGRAM + 1])),
    ("empty", |visit, _| send(visit, b"")),
    ("panic", |visit, _| send(visit, b"panic")),
    ("fail", |visit, _| send(visit, b"fail")),
];

/// How many come at a time as a crowd.
const CROWD: usize = 24;

pub(crate) fn run(soak: &Soak, random: &mut Rng) {
    while !soak.is_over() {
        let target = &soak.targets[random.usize(..soak.targets.len())];
        let faults = match (target.kind.is_stream(), target.kind.service, random.u8(..10)) {
            (false, ..) => &OF_DATAGRAMS[..],
            (true, Service::Lines | Service::Frames, 0) => {
                note("faults", "crowd", 1);
                crowd(target, random);
                continue;
            }
            (true, Service::Lines | Service::Frames, 1..3) => &OF_OTHER_STREAMS,
            _ => &OF_STREAMS,
        };
        let (name, fault) = faults[random.usize(..faults.len())];
        let Some((socket, stopping)) = target.connect() else { continue };
        note("faults", name, 1);
        // However it ends otherwise is the server's choice.
        if let Err(error) = fault(&Visit { socket, target, stopping }, random)
            && error.kind() == ErrorKind::WouldBlock
        {
            target.complain(format!("still connected {PATIENCE:?} after {name:?}"));
        }
        thread::sleep(Duration::from_millis(random.u64(..30)));
    }
}

/// Many good clients at a time: more than some servers want, who must say so.
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

/// Reads until the server closes, or has had enough.
fn until_the_end(mut socket: &Socket) -> io::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    let mut waste = [0; 4096];
    loop {
        match socket.read(&mut waste) {
            Ok(0) => return Ok(()),
            Ok(_) if Instant::now() > give_up => return Err(ErrorKind::WouldBlock.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn send(visit: &Visit, bytes: &[u8]) -> io::Result<()> {
    (&visit.socket).write_all(bytes)
}

fn reset(visit: &Visit, random: &mut Rng) -> io::Result<()> {
    for _ in 0..random.usize(..4) {
        send(visit, &visit.target.kind.request("never to be answered"))?;
    }
    // Closing throws away what is under way, and says so.
    visit.socket.set_linger(Some(Duration::ZERO))
}

fn close_inside(visit: &Visit, random: &mut Rng) -> io::Result<()> {
    let request = visit.target.kind.request("not all of this");
    send(visit, &request[..random.usize(..request.len())])
}

fn drip(visit: &Visit, random: &mut Rng) -> io::Result<()> {
    let pause = Duration::from_millis(random.u64(1..=50));
    // More than there is time for.
    for byte in visit.target.kind.request(&"x".repeat(10_000)) {
        send(visit, &[byte])?;
        thread::sleep(pause);
    }
    Err(ErrorKind::WouldBlock.into())
}

/// Asks for much more than it ever reads, until long after the server should have let go of it.
fn never_read(visit: &Visit, random: &mut Rng) -> io::Result<()> {
    visit.socket.set_recv_buffer_size(4096)?;
    let request = visit.target.kind.request(&"x".repeat(1000));
    let resets = random.bool();
    write_on(visit, &request, 10 * visit.target.kind.limit(), || {
        resets && visit.stopping.load(SeqCst)
    })
}

fn endless_line(visit: &Visit, _: &mut Rng) -> io::Result<()> {
    write_on(visit, &[b'x'; 4096], Duration::from_secs(1), || false)
}

/// Writes the same again and again, until nothing has gone for so long. Then it takes reading to
/// see whether the server has closed: whoever only writes, into a full buffer, is not told.
fn write_on(
    visit: &Visit,
    bytes: &[u8],
    pause: Duration,
    leaves: impl Fn() -> bool,
) -> io::Result<()> {
    visit.socket.set_write_timeout(Some(pause / 20))?;
    let (begun, mut progress) = (Instant::now(), Instant::now());
    while progress.elapsed() < pause {
        match (&visit.socket).write(bytes) {
            Ok(_) if begun.elapsed() > PATIENCE => return Err(ErrorKind::WouldBlock.into()),
            Ok(_) => progress = Instant::now(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if leaves() {
            return Ok(());
        }
    }
    until_the_end(&visit.socket)
}

fn garbage(visit: &Visit, random: &mut Rng) -> io::Result<()> {
    let mut garbage = vec![0; random.usize(1..4096)];
    random.fill(&mut garbage);
    send(visit, &garbage)?;
    visit.socket.shutdown(Shutdown::Write)?;
    until_the_end(&visit.socket)
}

fn command(visit: &Visit, command: &str) -> io::Result<()> {
    send(visit, &visit.target.kind.request(command))?;
    until_the_end(&visit.socket)
}
