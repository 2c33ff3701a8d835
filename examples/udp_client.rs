//! A client for datagram servers such as `timestamp` and `echo`: it sends each line as one
//! datagram, and shows the answer.
//!
//! ```text
//! cargo run --release --example timestamp -- --listen udp://127.0.0.1:21568 &
//! cargo run --release --example udp_client
//! ```
//!
//! If standard input or output is no terminal it is a plain filter. Datagrams may get lost: the
//! client waits for each answer for a limited time, and its exit status says whether all arrived.

mod client;

use std::io::{self, BufRead, ErrorKind, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

use client::{Failure, failed};
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use socket2::Socket;
use socketserver::services::printable;
use socketserver::{Endpoint, Scheme};

const USAGE: &str = "\
usage: udp_client [-t SECONDS] [--connect] [ADDRESS]

Sends each line as a datagram and shows the answer; Ctrl-D leaves. The exit status
is 1 when an answer did not come.

  ADDRESS                HOST:PORT, udp://HOST:PORT, unixgram:/path or
                         unixgram:@name [default: udp://127.0.0.1:21568]
  -t, --timeout SECONDS  how long to wait for each answer [default: 2]
  -h, --help             this text
";

/// Enough for UDP's 64 KiB, and for the longest datagram of a Unix socket by default.
const MAX_DATAGRAM: usize = 256 * 1024;

fn main() -> ExitCode {
    client::exit("udp_client", run())
}

fn run() -> Result<(), Failure> {
    let own = Some(('t', "timeout"));
    let (endpoint, seconds) = client::arguments(USAGE, "udp://127.0.0.1:21568", own)?;
    let timeout = seconds.map_or(Ok(Duration::from_secs(2)), |text| {
        let seconds = text.parse().ok().and_then(|number| Duration::try_from_secs_f64(number).ok());
        // A socket timeout of zero would mean no timeout.
        seconds.filter(|seconds| *seconds >= Duration::from_millis(1)).ok_or_else(|| {
            Failure::Usage(format!("{text:?} is not a number of seconds from 0.001 up"))
        })
    })?;
    let (mut socket, _own_address) = connect(&endpoint)?;
    socket.set_read_timeout(Some(timeout)).map_err(failed("cannot set the timeout"))?;

    let mut lines = lines()?;
    let (mut sent, mut missing) = (0, 0);
    while let Some(line) = lines()? {
        sent += 1;
        missing += u64::from(!ask(&mut socket, &line)?);
    }
    match missing {
        0 => Ok(()),
        _ => Err(Failure::Runtime(format!("no answer from {endpoint} to {missing} of {sent}"))),
    }
}

/// The address that a Unix socket gets answers at. Autobind (unix(7)) chooses a free abstract one, which
/// leaves no file behind.
#[cfg(all(target_os = "linux", not(socketserver_portable)))]
struct OwnAddress;

#[cfg(all(target_os = "linux", not(socketserver_portable)))]
impl OwnAddress {
    fn bind(socket: &UnixDatagram) -> io::Result<OwnAddress> {
        rustix::net::bind(socket, &rustix::net::SocketAddrUnix::new_unnamed())?;
        Ok(OwnAddress)
    }
}

/// The address that a Unix socket gets answers at: a file, which is removed with this value.
#[cfg(not(all(target_os = "linux", not(socketserver_portable))))]
struct OwnAddress(std::path::PathBuf);

#[cfg(not(all(target_os = "linux", not(socketserver_portable))))]
impl OwnAddress {
    fn bind(socket: &UnixDatagram) -> io::Result<OwnAddress> {
        let name = format!("udp_client-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        // A client of this process id has left it behind.
        let _ = std::fs::remove_file(&path);
        rustix::net::bind(socket, &rustix::net::SocketAddrUnix::new(&*path)?)?;
        Ok(OwnAddress(path))
    }
}

#[cfg(not(all(target_os = "linux", not(socketserver_portable))))]
impl Drop for OwnAddress {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A socket that is connected to the server, and so receives from it only.
fn connect(endpoint: &Endpoint) -> Result<(Socket, Option<OwnAddress>), Failure> {
    let connected = if endpoint.is_unix() {
        let name = endpoint.unix_name(Scheme::UnixDatagram)?;
        name.socket_addr().and_then(|name| {
            let socket = UnixDatagram::unbound()?;
            let own = OwnAddress::bind(&socket)?;
            socket.connect_addr(&name)?;
            Ok((Socket::from(socket), Some(own)))
        })
    } else {
        let found = endpoint.resolve(Scheme::Udp)?;
        // `connect` on a UDP socket sends nothing, so it cannot tell which of a name's addresses
        // has a server. IPv4 comes first, since the examples listen on it by default.
        let server = found.iter().find(|server| server.is_ipv4()).unwrap_or(&found[0]);
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        UdpSocket::bind(any).and_then(|socket| {
            socket.connect(server)?;
            Ok((Socket::from(socket), None))
        })
    };
    connected.map_err(failed(format_args!("cannot connect to {endpoint}")))
}

/// Returns the next line, or `None` after the last one.
type Lines = Box<dyn FnMut() -> Result<Option<Vec<u8>>, Failure>>;

/// The lines of the line editor if there is a terminal, else of standard input.
fn lines() -> Result<Lines, Failure> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        let mut input = io::stdin().lock().split(b'\n');
        return Ok(Box::new(move || {
            input.next().transpose().map_err(failed("cannot read standard input"))
        }));
    }
    let config = Config::builder().auto_add_history(true).build();
    let mut editor = DefaultEditor::with_config(config).map_err(failed("no line editor"))?;
    Ok(Box::new(move || match editor.readline("> ") {
        Ok(line) => Ok(Some(line.into_bytes())),
        Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
        Err(error) => Err(failed("cannot read from the terminal")(error)),
    }))
}

/// Sends one line and shows the answer. Returns whether one arrived in time.
fn ask(socket: &mut Socket, line: &[u8]) -> Result<bool, Failure> {
    // A late answer is shown, but does not count for this line. A pending `ECONNREFUSED` of the
    // last line is read too, which would otherwise fail this `send`.
    socket.set_nonblocking(true).map_err(failed("cannot ask for late answers"))?;
    while receive(socket)? {}
    socket.set_nonblocking(false).map_err(failed("cannot wait for the answer"))?;
    socket.send(line).map_err(failed("cannot send"))?;
    receive(socket)
}

/// Shows the next datagram. Returns whether there was one.
fn receive(socket: &mut Socket) -> Result<bool, Failure> {
    let mut answer = vec![0; MAX_DATAGRAM];
    match socket.read(&mut answer) {
        Ok(length) => answer.truncate(length),
        Err(error)
            if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::ConnectionRefused) =>
        {
            return Ok(false);
        }
        Err(error) => return Err(failed("cannot receive")(error)),
    }
    let mut output = io::stdout().lock();
    if output.is_terminal() {
        answer = printable(&answer).into_bytes();
    }
    if !answer.ends_with(b"\n") {
        answer.push(b'\n');
    }
    let shown = output.write_all(&answer).and_then(|()| output.flush());
    shown.map_err(failed("cannot write to standard output"))?;
    Ok(true)
}
