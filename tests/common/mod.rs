//! What the tests share: clients of all four transports, names that are nobody else's, bounds on
//! how long anything may take, and handlers that tell what happens to them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, WaitId, WaitIdOptions};
use socket2::{Domain, Socket, Type};
use socketserver::transport::Transport;
use socketserver::*;

/// How long anything may take that should come at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Ends the whole test program when the test that holds it takes too long.
#[must_use]
pub(crate) struct Bound(mpsc::Sender<()>);

/// A bound on the current test: `let _bound = bounded();`.
pub(crate) fn bounded() -> Bound {
    let test = std::thread::current().name().unwrap_or("?").to_owned();
    let (sender, over) = mpsc::channel();
    std::thread::spawn(move || {
        if over.recv_timeout(2 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("{test} takes for ever");
            std::process::exit(101);
        }
    });
    Bound(sender)
}

/// Waits for something that sends no word of itself.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < give_up, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The next message, which is on its way.
#[track_caller]
pub(crate) fn next<T>(from: &mpsc::Receiver<T>) -> T {
    from.recv_timeout(PATIENCE).expect("nothing came")
}

fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// An abstract name that nobody else uses, as `@name`.
pub(crate) fn abstract_name() -> String {
    format!("@socketserver-test-{}", unique())
}

/// A directory of a test's own, removed in the end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        let path = std::env::temp_dir().join(format!("socketserver-test-{}", unique()));
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A client of a TCP server.
pub(crate) fn tcp(address: impl Into<Endpoint>) -> TcpStream {
    let addresses = address.into().resolve(Scheme::Tcp).unwrap();
    let stream = TcpStream::connect(&addresses[..]).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client of a TCP server with an address that no other such client has. The system may give one
/// address to two, of different servers.
pub(crate) fn tcp_of_its_own(address: impl Into<Endpoint>) -> TcpStream {
    let server = address.into().resolve(Scheme::Tcp).unwrap()[0];
    let here: std::net::SocketAddr = (server.ip(), 0).into();
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
    socket.bind(&here.into()).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// What std calls a Unix socket's name.
pub(crate) fn unix_address(name: &UnixName) -> SocketAddr {
    match name {
        UnixName::Path(path) => SocketAddr::from_pathname(path).unwrap(),
        UnixName::Abstract(name) => SocketAddr::from_abstract_name(name).unwrap(),
        UnixName::Unnamed => panic!("no name"),
    }
}

/// A client of a Unix stream server.
pub(crate) fn unix(address: impl Into<Endpoint>) -> UnixStream {
    let name = unix_address(address.into().unix_name(Scheme::Unix).unwrap());
    let stream = UnixStream::connect_addr(&name).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A client of a UDP server.
pub(crate) fn udp(address: impl Into<Endpoint>) -> UdpSocket {
    let server = address.into().resolve(Scheme::Udp).unwrap()[0];
    let here = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(here).unwrap();
    socket.connect(server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A client of a Unix datagram server, with a name, so that it can be answered.
pub(crate) fn unixgram(address: impl Into<Endpoint>) -> UnixDatagram {
    let name = UnixName::Abstract(abstract_name()[1..].into());
    let socket = UnixDatagram::bind_addr(&unix_address(&name)).unwrap();
    let server = unix_address(address.into().unix_name(Scheme::UnixDatagram).unwrap());
    socket.connect_addr(&server).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a line and returns the answer, without their ends.
#[track_caller]
pub(crate) fn ask<S>(mut stream: &S, line: &str) -> String
where
    for<'a> &'a S: Read + Write,
{
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    line_of(stream)
}

/// Reads one line, and no byte more.
#[track_caller]
pub(crate) fn line_of(mut stream: impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while uninterrupted(|| stream.read(&mut byte)) == 1 {
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

/// Reads to the end.
#[track_caller]
pub(crate) fn rest_of(mut stream: impl Read) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

/// One request to an echo server of any transport, by its address; checks the answer.
#[track_caller]
pub(crate) fn echoes(address: impl Into<Endpoint>, text: &str) {
    let endpoint = address.into();
    let data = text.as_bytes();
    let mut buffer = vec![0; 65_536];
    let answer = match endpoint.scheme() {
        None | Some(Scheme::Tcp) => {
            let mut stream = tcp(endpoint);
            stream.write_all(data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            rest_of(stream)
        }
        Some(Scheme::Unix) => {
            let mut stream = unix(endpoint);
            stream.write_all(data).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            rest_of(stream)
        }
        Some(Scheme::Udp) => {
            let socket = udp(endpoint);
            socket.send(data).unwrap();
            let length = uninterrupted(|| socket.recv(&mut buffer));
            buffer[..length].to_vec()
        }
        Some(Scheme::UnixDatagram) => {
            let socket = unixgram(endpoint);
            socket.send(data).unwrap();
            let length = uninterrupted(|| socket.recv(&mut buffer));
            buffer[..length].to_vec()
        }
        Some(scheme) => unreachable!("{scheme:?}"),
    };
    assert_eq!(answer, data);
}

/// What a call returns that std does not repeat after a signal.
#[track_caller]
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> T {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.unwrap(),
        }
    }
}

/// Two children of this process that are no business of the server's: one has ended and waits to
/// be asked for its status, the other is running.
pub(crate) struct Bystanders {
    ended: Child,
    running: Child,
}

impl Bystanders {
    pub(crate) fn start() -> Bystanders {
        let ended = Command::new("sh").args(["-c", "exit 7"]).spawn().unwrap();
        let running = Command::new("sh")
            .args(["-c", "read line; exit 8"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&ended);
        let leave_it_there = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        rustix::process::waitid(WaitId::Pid(pid), leave_it_there).unwrap();
        Bystanders { ended, running }
    }

    /// Neither has been reaped, and the other still runs until it is told to end.
    #[track_caller]
    pub(crate) fn are_unharmed(mut self) {
        assert_eq!(self.ended.wait().unwrap().code(), Some(7));
        assert!(self.running.try_wait().unwrap().is_none());
        drop(self.running.stdin.take());
        assert_eq!(self.running.wait().unwrap().code(), Some(8));
    }
}

/// Buffered lines of a stream, for tests that read many.
pub(crate) fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stream).lines().map(Result::unwrap)
}

/// Numbers of the threads of this process that serve, by their name.
pub(crate) fn serving_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "socketserver").count()
}

/// How many descriptors this process has open.
pub(crate) fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// A client of a stream server, whichever the kind.
pub(crate) enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    pub(crate) fn of(server: &ServerHandle) -> Client {
        let endpoint = Endpoint::from(server.local_addr());
        match endpoint.is_unix() {
            true => Client::Unix(unix(endpoint)),
            false => Client::Tcp(tcp(endpoint)),
        }
    }

    #[track_caller]
    pub(crate) fn shutdown(&self, how: Shutdown) {
        match self {
            Client::Tcp(stream) => stream.shutdown(how).unwrap(),
            Client::Unix(stream) => stream.shutdown(how).unwrap(),
        }
    }

    /// Sends something whole.
    #[track_caller]
    pub(crate) fn send(&self, bytes: impl AsRef<[u8]>) {
        (&mut &*self).write_all(bytes.as_ref()).unwrap();
    }
}

impl Read for &Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => (&*stream).read(buffer),
            Client::Unix(stream) => (&*stream).read(buffer),
        }
    }
}

impl Write for &Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Client::Tcp(stream) => (&*stream).write(bytes),
            Client::Unix(stream) => (&*stream).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One handler on servers of both stream transports, by both mixins that run beside a test.
pub(crate) fn on_every_stream_server<H: StreamRequestHandler>(
    handler: H,
    set: impl Settings,
    test: impl Fn(&RunningServer),
) {
    let handler = Arc::new(handler);
    let unix = format!("unix:{}", abstract_name());
    for (address, threading) in
        [("127.0.0.1:0", false), ("127.0.0.1:0", true), (&*unix, false), (&*unix, true)]
    {
        let mixin: Box<dyn Spawnable> =
            if threading { Box::new(Threading::new()) } else { Box::new(Sequential) };
        let handler = handler.clone();
        let server = if address.starts_with("unix") {
            let builder = UnixStreamServer::builder().mixin(mixin);
            set.set(builder).bind(address, handler).unwrap().spawn()
        } else {
            set.set(TcpServer::builder().mixin(mixin)).bind(address, handler).unwrap().spawn()
        };
        let server = server.unwrap();
        test(&server);
        let report = server.stop(PATIENCE);
        assert!(report.is_clean(), "{address}: {report:?}");
    }
}

/// Settings for a server of any transport.
pub(crate) trait Settings {
    fn set<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M>;
}

/// The defaults.
impl Settings for () {
    fn set<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder
    }
}

/// What a handler was put through, as words on a channel: `setup`, `handle`, `finish`, and
/// `error: ...`.
pub(crate) struct Told<H> {
    handler: H,
    tell: Mutex<mpsc::Sender<String>>,
}

impl<H> Told<H> {
    pub(crate) fn new(handler: H) -> (Told<H>, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel();
        (Told { handler, tell: Mutex::new(sender) }, receiver)
    }

    pub(crate) fn tell(&self, what: impl Into<String>) {
        let _ = self.tell.lock().send(what.into());
    }
}

type AnyError = dyn std::error::Error + Send + Sync + 'static;

impl<H: StreamRequestHandler> StreamRequestHandler for Told<H> {
    fn verify_request(&self, connection: &Connection) -> bool {
        self.handler.verify_request(connection)
    }

    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        self.tell("setup");
        self.handler.setup(connection)
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        self.tell("handle");
        self.handler.handle(connection)
    }

    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        self.tell("finish");
        self.handler.finish(connection)
    }

    fn handle_error(&self, connection: &Connection, error: &AnyError) {
        self.tell(format!("error: {error}"));
        self.handler.handle_error(connection, error);
    }
}

impl<H: DatagramRequestHandler> DatagramRequestHandler for Told<H> {
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        self.handler.verify_request(request)
    }

    fn setup(&self, request: &mut DatagramRequest) -> HandlerResult {
        self.tell("setup");
        self.handler.setup(request)
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        self.tell("handle");
        self.handler.handle(request)
    }

    fn finish(&self, request: &mut DatagramRequest) -> HandlerResult {
        self.tell("finish");
        self.handler.finish(request)
    }

    fn handle_error(&self, request: &DatagramRequest, error: &AnyError) {
        self.tell(format!("error: {error}"));
        self.handler.handle_error(request, error);
    }
}
