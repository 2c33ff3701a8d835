//! Clients of the worst manners. All that is asked of them is that the server gets rid of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socket2::Socket;

use crate::servers::{LONGEST_DATAGRAM, Service};
use crate::streams::Session;
use crate::target::Target;
use crate::{PATIENCE, Soak};

type Fault = (&'static str, fn(&Socket, &Target, &mut Rng) -> io::Result<()>);

const OF_STREAMS: [Fault; 8] = [
    ("reset", reset),
    ("close at once", |_, _, _| Ok(())),
    ("close inside a message", close_inside),
    ("stay silent", |socket, _, _| until_the_end(socket)),
    ("endless line", endless_line),
    ("garbage", garbage),
    ("panic", |socket, target, _| command(socket, target, "panic")),
    ("fail", |socket, target, _| command(socket, target, "fail")),
];

/// These do not read, while others talk.
const OF_OTHER_STREAMS: [Fault; 2] = [("drip", drip), ("never read", never_read)];

const OF_DATAGRAMS: [Fault; 4] = [
    ("too long", |mut socket, _, _| socket.write_all(&[b'x'; LONGEST_DATAGRAM + 1])),
    ("empty", |mut socket, _, _| socket.write_all(b"")),
    ("panic", |mut socket, _, _| socket.write_all(b"panic")),
    ("fail", |mut socket, _, _| socket.write_all(b"fail")),
];

/// How many come at a time as a crowd.
const CROWD: usize = 24;

pub(crate) fn run(soak: &Soak, random: &mut Rng) {
    let tally = &soak.tally;
    while !soak.is_over() {
        let target = &soak.targets[random.usize(..soak.targets.len())];
        let faults = match (target.kind.is_stream(), target.kind.service, random.u8(..10)) {
            (false, ..) => &OF_DATAGRAMS[..],
            (true, Service::Lines | Service::Frames, 0) => {
                tally.note("faults", "crowd", 1);
                crowd(soak, target, random);
                continue;
            }
            (true, Service::Lines | Service::Frames, 1..3) => &OF_OTHER_STREAMS,
            _ => &OF_STREAMS,
        };
        let (name, fault) = faults[random.usize(..faults.len())];
        let Some((socket, _)) = target.connect(tally) else { continue };
        tally.note("faults", name, 1);
        // However it ends otherwise is the server's choice.
        if let Err(error) = fault(&socket, target, random)
            && error.kind() == ErrorKind::WouldBlock
        {
            let limit = format!("{PATIENCE:?} after {name:?}");
            tally.complain(format!("{}: still connected {limit}", target.kind.name));
        }
        drop(socket);
        thread::sleep(Duration::from_millis(random.u64(..30)));
    }
}

/// Many good clients at a time: more than some servers want, who must say so.
fn crowd(soak: &Soak, target: &Target, random: &mut Rng) {
    let open = |_| Session::open(target, &soak.tally);
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

fn reset(mut socket: &Socket, target: &Target, random: &mut Rng) -> io::Result<()> {
    for _ in 0..random.usize(..4) {
        socket.write_all(&target.kind.request("never to be answered"))?;
    }
    // Closing throws away what is under way, and says so.
    socket.set_linger(Some(Duration::ZERO))
}

fn close_inside(mut socket: &Socket, target: &Target, random: &mut Rng) -> io::Result<()> {
    let request = target.kind.request("not all of this");
    socket.write_all(&request[..random.usize(..request.len())])
}

fn drip(mut socket: &Socket, target: &Target, random: &mut Rng) -> io::Result<()> {
    let pause = Duration::from_millis(random.u64(1..=50));
    // More than there is time for.
    for byte in target.kind.request(&"x".repeat(10_000)) {
        socket.write_all(&[byte])?;
        thread::sleep(pause);
    }
    Err(ErrorKind::WouldBlock.into())
}

fn never_read(mut socket: &Socket, target: &Target, _: &mut Rng) -> io::Result<()> {
    socket.set_recv_buffer_size(4096)?;
    let requests = target.kind.request(&"x".repeat(1000)).repeat(100);
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        socket.write_all(&requests)?;
    }
    Err(ErrorKind::WouldBlock.into())
}

fn endless_line(mut socket: &Socket, _: &Target, _: &mut Rng) -> io::Result<()> {
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        socket.write_all(&[b'x'; 4096])?;
    }
    Err(ErrorKind::WouldBlock.into())
}

fn garbage(mut socket: &Socket, _: &Target, random: &mut Rng) -> io::Result<()> {
    let mut garbage = vec![0; random.usize(1..4096)];
    random.fill(&mut garbage);
    socket.write_all(&garbage)?;
    socket.shutdown(Shutdown::Write)?;
    until_the_end(socket)
}

fn command(mut socket: &Socket, target: &Target, command: &str) -> io::Result<()> {
    socket.write_all(&target.kind.request(command))?;
    until_the_end(socket)
}
