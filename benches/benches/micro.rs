//! The cost of the library's parts, without sockets and other processes.
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
use socketserver::extend::{BaseServer, Mixin, Request};
use socketserver::extend::{IncomingStream, Stream, Transport, TransportOptions};
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::services::Echo;
use socketserver::{
    Address, Broadcast, Connection, Endpoint, Handled, HandlerResult, Observer, Sequential, Server,
    StreamRequestHandler, Threading, handler_fn,
};

criterion_group!(all, tied_buffers, framing, request, broadcast);
criterion_main!(all);

/// Echo of a thousand lines through `read_line` and `write_all`.
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

/// A length-prefixed message, written and read.
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

/// One request from accepting to its end, with an empty handler, while others are open.
fn request(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    for open in [0, 10_000] {
        let kept = Arc::default();
        let mixin = KeepFirst { count: open, kept: Arc::clone(&kept) };
        let server = Server::<InMemory, Sequential>::builder()
            .mixin(mixin)
            .max_connections(open + 1)
            .from_listener(InMemory::endless(), handler_fn(|_| Ok(())))
            .unwrap();
        for _ in 0..open {
            assert_eq!(server.handle_request(), Handled::Request);
        }
        assert_eq!(server.handle().connections().len(), open);
        group.bench_function(format!("with {open} others present"), |bencher| {
            bencher.iter(|| assert_eq!(server.handle_request(), Handled::Request));
        });
        kept.lock().unwrap().clear();
    }
    // Of a flood a thousand events of a kind are told in a second; the others are counted.
    let server = Server::<InMemory, Sequential>::builder()
        .observer(Nothing)
        .from_listener(InMemory::endless(), handler_fn(|_| Ok(())))
        .unwrap();
    group.bench_function("with an observer", |bencher| {
        bencher.iter(|| assert_eq!(server.handle_request(), Handled::Request));
    });
    group.finish();
}

/// An observer that takes no notice.
struct Nothing;

impl Observer for Nothing {}

/// A message to members whose streams take it at once.
fn broadcast(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broadcast");
    for members in [1, 100] {
        let room = Broadcast::new();
        let server = Server::<InMemory, Threading>::builder()
            .from_listener(InMemory::of(members), SilentMember(room.clone()))
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

/// Keeps the first requests open, and finishes each further one at once.
struct KeepFirst {
    count: usize,
    kept: Arc<Mutex<Vec<Request>>>,
}

impl Mixin for KeepFirst {
    fn process_request(&self, _server: &BaseServer, request: Request) {
        let mut kept = self.kept.lock().unwrap();
        if kept.len() < self.count {
            kept.push(request);
        } else {
            let _outcome = request.finish();
        }
    }
}

/// Joins the broadcast, and sends nothing until the server stops.
struct SilentMember(Broadcast);

impl StreamRequestHandler for SilentMember {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let _member = self.0.join(connection)?;
        connection.read_line(&mut Vec::new())?;
        Ok(())
    }
}

/// A transport whose streams are in memory. Each byte in the pipe is a connection to accept.
struct InMemory {
    pending: PipeReader,
    _writer: PipeWriter,
    /// `accept` leaves the byte in the pipe, and each stream is at EOF from the start.
    endless: bool,
}

impl InMemory {
    fn of(count: usize) -> InMemory {
        let (pending, mut writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&pending, true).unwrap();
        writer.write_all(&vec![0; count]).unwrap();
        InMemory { pending, _writer: writer, endless: false }
    }

    fn endless() -> InMemory {
        InMemory { endless: true, ..InMemory::of(1) }
    }
}

impl AsFd for InMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pending.as_fd()
    }
}

impl Transport for InMemory {
    type Handler = dyn StreamRequestHandler;

    fn bind(_: &Endpoint, _: &TransportOptions) -> socketserver::Result<InMemory> {
        Ok(InMemory::of(0))
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(dummy_address())
    }

    fn accept(&self, _: &TransportOptions) -> io::Result<IncomingStream> {
        if !self.endless {
            (&self.pending).read_exact(&mut [0])?;
        }
        let stream = Sink { eof: Mutex::new(self.endless), changed: Condvar::new() };
        Ok(IncomingStream { stream: Box::new(stream), peer: dummy_address() })
    }
}

fn dummy_address() -> Address {
    Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)))
}

/// A stream that takes all output. Its input is empty; EOF comes when it is shut down.
struct Sink {
    eof: Mutex<bool>,
    changed: Condvar,
}

impl Stream for Sink {
    fn read(&self, _: &mut [u8]) -> io::Result<usize> {
        let eof = self.eof.lock().unwrap();
        let _eof = self.changed.wait_while(eof, |eof| !*eof).unwrap();
        Ok(0)
    }

    fn write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(pieces.iter().map(|piece| black_box(piece).len()).sum())
    }

    fn try_read(&self, _: &mut [u8]) -> io::Result<usize> {
        if *self.eof.lock().unwrap() { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    fn try_write(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write(pieces)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            *self.eof.lock().unwrap() = true;
            self.changed.notify_all();
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
        Ok(dummy_address())
    }

    fn unread(&self) -> io::Result<usize> {
        Ok(0)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
