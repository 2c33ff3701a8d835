//! What the parts of the library cost, without a socket and without another process.
//!
//! ```sh
//! cargo bench -p socketserver-benches
//! cargo bench -p socketserver-benches -- request
//! ```

use std::hint::black_box;
use std::io::{self, IoSlice, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::transport::{IncomingStream, Stream, Transport, TransportOptions};
use socketserver::{
    Address, BaseServer, Broadcast, Connection, Endpoint, Handled, HandlerResult, Mixin, Request,
    Sequential, Server, StreamRequestHandler, Threading, handler_fn,
};

criterion_group!(all, tied_buffers, framing, request, broadcast);
criterion_main!(all);

/// A thousand lines through `read_line` and `write_all`.
fn tied_buffers(criterion: &mut Criterion) {
    let lines = [&[b'x'; 63][..], b"\n"].concat().repeat(1000);
    let mut group = criterion.benchmark_group("tied buffers");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("echo of 1000 lines of 64 bytes", |bencher| {
        bencher.iter_batched_ref(
            || Connection::in_memory(&lines[..]),
            |connection| StreamRequestHandler::handle(&Echo, connection.as_mut()).unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// A message behind its length, written and read.
fn framing(criterion: &mut Criterion) {
    let frames = LengthPrefixed::new(Prefix::U32);
    let mut group = criterion.benchmark_group("framing");
    for size in [64, 4096] {
        let message = vec![b'x'; size];
        let mut wire = Vec::new();
        frames.write(&mut wire, &message).unwrap();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(format!("write {size} bytes"), |bencher| {
            let mut out = Vec::with_capacity(wire.len());
            bencher.iter(|| {
                out.clear();
                frames.write(&mut out, black_box(&message)).unwrap();
            });
        });
        group.bench_function(format!("read {size} bytes"), |bencher| {
            let mut read = Vec::new();
            bencher.iter(|| assert!(frames.read(&mut black_box(&wire[..]), &mut read).unwrap()));
        });
    }
    group.finish();
}

/// One request from its arrival to its end, with a handler that does nothing, while others are
/// present.
fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for present in [0, 10_000] {
        let kept = Arc::default();
        let keeping = Keeping { to_keep: present, kept: Arc::clone(&kept) };
        let server = Server::<Memory, Sequential>::builder()
            .mixin(keeping)
            .max_connections(present + 1)
            .from_listener(Memory::without_end(), handler_fn(|_| Ok(())))
            .unwrap();
        for _ in 0..present {
            assert_eq!(server.handle_request(), Handled::Request);
        }
        assert_eq!(server.handle().connections().len(), present);
        group.bench_function(format!("with {present} others present"), |bencher| {
            bencher.iter(|| assert_eq!(server.handle_request(), Handled::Request));
        });
        kept.lock().unwrap().clear();
    }
    group.finish();
}

/// A message to members that take at once whatever they get.
fn broadcast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broadcast");
    for members in [1, 100] {
        let room = Broadcast::new();
        let server = Server::<Memory, Threading>::builder()
            .from_listener(Memory::of(members), Listening(room.clone()))
            .unwrap()
            .spawn()
            .unwrap();
        while room.members() < members {
            thread::yield_now();
        }
        let message: Arc<[u8]> = Arc::from([b'x'; 64]);
        group.bench_function(format!("64 bytes to {members} members"), |bencher| {
            bencher.iter(|| room.send(message.clone()));
        });
        assert_eq!((room.members(), room.slow_members()), (members, 0));
        assert!(server.stop(Duration::from_secs(10)).is_clean());
    }
    group.finish();
}

/// Keeps the first requests as they came, so that they are present; then finishes each at once.
struct Keeping {
    to_keep: usize,
    kept: Arc<Mutex<Vec<Request>>>,
}

impl Mixin for Keeping {
    fn process_request(&self, _server: &BaseServer, request: Request) {
        let mut kept = self.kept.lock().unwrap();
        if kept.len() < self.to_keep {
            kept.push(request);
        } else {
            let _outcome = request.finish();
        }
    }
}

/// A member that says nothing, until the server stops.
struct Listening(Broadcast);

impl StreamRequestHandler for Listening {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let _member = self.0.join(connection)?;
        connection.read_line(&mut Vec::new())?;
        Ok(())
    }
}

/// Where streams in memory come from. A byte in the pipe is one of them.
struct Memory {
    arrivals: PipeReader,
    _arriving: PipeWriter,
    /// The byte stays, for the next one; and each has ended already.
    without_end: bool,
}

impl Memory {
    fn of(count: usize) -> Memory {
        let (arrivals, mut arriving) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&arrivals, true).unwrap();
        arriving.write_all(&vec![0; count]).unwrap();
        Memory { arrivals, _arriving: arriving, without_end: false }
    }

    fn without_end() -> Memory {
        Memory { without_end: true, ..Memory::of(1) }
    }
}

impl AsFd for Memory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.arrivals.as_fd()
    }
}

impl Transport for Memory {
    type Handler = dyn StreamRequestHandler;

    fn bind(_: &Endpoint, _: &TransportOptions) -> socketserver::Result<Memory> {
        Ok(Memory::of(0))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(nowhere())
    }

    fn accept(&self, _: &TransportOptions) -> io::Result<IncomingStream> {
        if !self.without_end {
            (&self.arrivals).read_exact(&mut [0])?;
        }
        let stream = Swallowing { ended: Mutex::new(self.without_end), end: Condvar::new() };
        Ok(IncomingStream { stream: Box::new(stream), peer: nowhere() })
    }
}

fn nowhere() -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))
}

/// A stream that takes everything, and says nothing until it is shut.
struct Swallowing {
    ended: Mutex<bool>,
    end: Condvar,
}

impl Stream for Swallowing {
    fn read(&self, _: &mut [u8]) -> io::Result<usize> {
        let ended = self.ended.lock().unwrap();
        let _ended = self.end.wait_while(ended, |ended| !*ended).unwrap();
        Ok(0)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(pieces.iter().map(|piece| black_box(piece).len()).sum())
    }

    fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
        if *self.ended.lock().unwrap() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(pieces)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            *self.ended.lock().unwrap() = true;
            self.end.notify_all();
        }
        Ok(())
    }

    fn set_read_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn set_write_timeout(&self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(nowhere())
    }

    fn unread(&self) -> io::Result<usize> {
        Ok(0)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
