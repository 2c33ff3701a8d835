//! Sockets that the program was started with, by a service manager or a super-server: [`Listeners`] and
//! [`InheritedSocket`].

use std::env;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixDatagram as StdUnixDatagram, UnixListener};
use std::process;

use socket2::{Domain, Socket, Type};

use super::socket_file::SocketFile;
use super::{Tcp, Transport, Udp, UnixDatagram, UnixStream};
use crate::address::{Address, Scheme};
use crate::error::{Error, Result};
use crate::sys::inherited;
use crate::sys::socket::is_listening;

/// The sockets that a service manager has passed to this process (socket activation), by name.
///
/// A service whose sockets systemd opens is started when the first client connects, needs no rights to
/// bind, and can be restarted while clients wait in the backlog: [systemd.socket(5)], of which each
/// `FileDescriptorName=` is a name here. Other managers follow the same protocol, [sd_listen_fds(3)].
///
/// ```no_run
/// use socketserver::transport::{Listeners, Tcp};
/// use socketserver::{ThreadingTcpServer, services::Echo};
///
/// fn main() -> socketserver::Result<()> {
///     let mut listeners = Listeners::from_env()?;
///     let socket: Tcp = listeners.take("echo")?.try_into()?;
///     ThreadingTcpServer::from_listener(socket, Echo)?.serve_forever()
/// }
/// ```
///
/// [systemd.socket(5)]: https://man7.org/linux/man-pages/man5/systemd.socket.5.html
/// [sd_listen_fds(3)]: https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html
#[derive(Debug, Default)]
pub struct Listeners(Vec<InheritedSocket>);

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// More than any service has; systemd itself passes at most 4096.
const MAX_PASSED: RawFd = 4096;

impl Listeners {
    /// Takes those that the environment tells of: as many as `LISTEN_FDS` says, if `LISTEN_PID` is this
    /// process, with the names in `LISTEN_FDNAMES`, or else the name `unknown`. None if the variables are
    /// not set, or meant for another process: programs that this one starts inherit the variables, but not
    /// the sockets, which are closed in them (`FD_CLOEXEC`).
    ///
    /// # Errors
    /// [`Error::Inherited`] if a variable is malformed, if a descriptor is not open or was taken before, or
    /// is not a socket that a server can serve: listening TCP and Unix stream sockets, UDP and Unix
    /// datagram sockets.
    pub fn from_env() -> Result<Listeners> {
        let Some(pid) = variable("LISTEN_PID")? else { return Ok(Listeners::default()) };
        let Some(count) = variable("LISTEN_FDS")? else { return Ok(Listeners::default()) };
        let pid: u32 = pid.parse().map_err(|_| malformed("LISTEN_PID", &pid))?;
        if pid != process::id() {
            return Ok(Listeners::default());
        }
        let in_range = |count: &RawFd| (0..=MAX_PASSED).contains(count);
        let number = count.parse().ok().filter(in_range);
        let number = number.ok_or_else(|| malformed("LISTEN_FDS", &count))?;
        let names = variable("LISTEN_FDNAMES")?.unwrap_or_default();
        let names = names.split(':').filter(|name| !name.is_empty());
        let names = names.map(str::to_owned).chain(std::iter::repeat("unknown".to_owned()));
        let sockets = (FIRST..FIRST + number).zip(names);
        let sockets = sockets.map(|(number, name)| InheritedSocket::take(number, name));
        Ok(Listeners(sockets.collect::<Result<_>>()?))
    }

    /// Takes out the first socket of this name.
    ///
    /// # Errors
    /// [`Error::Inherited`] if there is none. The error says which names there are.
    pub fn take(&mut self, name: &str) -> Result<InheritedSocket> {
        match self.0.iter().position(|socket| socket.name == name) {
            Some(position) => Ok(self.0.remove(position)),
            None => {
                let names: Vec<_> = self.0.iter().map(|socket| &*socket.name).collect();
                let reason = match names.is_empty() {
                    true => "the process was started with no sockets".to_owned(),
                    false => format!("the process was started with {}", names.join(", ")),
                };
                Err(Error::Inherited { socket: name.to_owned(), reason })
            }
        }
    }

    /// How many are left.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Those that are left, in the order of their descriptors.
impl IntoIterator for Listeners {
    type Item = InheritedSocket;
    type IntoIter = std::vec::IntoIter<InheritedSocket>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// `None` if it is not set, or empty.
fn variable(name: &str) -> Result<Option<String>> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let value = value.into_string().map_err(|value| malformed(name, &value.to_string_lossy()))?;
    Ok(Some(value))
}

fn malformed(name: &str, value: &str) -> Error {
    Error::Inherited { socket: name.to_owned(), reason: format!("it is set to {value:?}") }
}

/// A socket that this process was started with: a listening one, or one for datagrams.
///
/// It becomes a transport by [`TryFrom`], which fails with [`Error::Inherited`] for one of another kind:
/// [`Tcp`], [`UnixStream`], [`Udp`] or [`UnixDatagram`].
#[derive(Debug)]
pub struct InheritedSocket {
    name: String,
    socket: Socket,
    scheme: Scheme,
    /// The file of a Unix socket goes with it.
    has_file: bool,
}

impl InheritedSocket {
    /// Takes the socket with the descriptor of this number, such as one that a supervisor has opened and
    /// named on the command line. Of 0 to 2, standard input, output and error, it makes a copy.
    ///
    /// The descriptor must have been inherited: one that std or this crate has opened is refused, and so
    /// is one that was taken before. In a program that opens descriptors by other means without
    /// `O_CLOEXEC`, their numbers must not be passed here.
    ///
    /// # Errors
    /// As [`Listeners::from_env`].
    pub fn from_descriptor(number: RawFd) -> Result<InheritedSocket> {
        InheritedSocket::take(number, format!("descriptor {number}"))
    }

    fn take(number: RawFd, name: String) -> Result<InheritedSocket> {
        let taken = inherited::take(number).map_err(|error| Error::Inherited {
            socket: name.clone(),
            reason: format!("descriptor {number}: {error}"),
        })?;
        InheritedSocket::new(name, taken)
    }

    /// Another process has passed it on.
    pub(crate) fn new(name: String, descriptor: OwnedFd) -> Result<InheritedSocket> {
        let socket = Socket::from(descriptor);
        match scheme_of(&socket) {
            Ok(scheme) => Ok(InheritedSocket { name, socket, scheme, has_file: false }),
            Err(reason) => Err(Error::Inherited { socket: name, reason }),
        }
    }

    /// Its name: that of [`Listeners`], or `descriptor 3`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which transport serves it.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// With the file of a Unix socket, which the process that has passed it on still owns.
    pub(crate) fn with_file(self) -> InheritedSocket {
        InheritedSocket { has_file: true, ..self }
    }

    pub(crate) fn try_clone(&self) -> io::Result<InheritedSocket> {
        let InheritedSocket { name, socket, scheme, has_file } = self;
        let (name, socket) = (name.clone(), socket.try_clone()?);
        Ok(InheritedSocket { name, socket, scheme: *scheme, has_file: *has_file })
    }

    /// The address that it is bound to.
    pub(crate) fn address(&self) -> Result<Address> {
        let read = || {
            let copy = self.socket.try_clone()?;
            match self.scheme {
                Scheme::Tcp => Tcp::from(TcpListener::from(copy)).local_addr(),
                Scheme::Udp => Udp::from(UdpSocket::from(copy)).local_addr(),
                Scheme::Unix => UnixStream::from(UnixListener::from(copy)).local_addr(),
                Scheme::UnixDatagram => {
                    UnixDatagram::from(StdUnixDatagram::from(copy)).local_addr()
                }
            }
        };
        read().map_err(Error::system("read the address"))
    }

    fn file(&self) -> Option<SocketFile> {
        let path = self.socket.local_addr().ok()?.as_pathname()?.to_owned();
        let file = self.has_file.then(|| SocketFile::of_other(&path))?;
        file.inspect_err(|error| log::warn!("{}: {error}", path.display())).ok()
    }

    /// The socket, if it is of this kind.
    fn of_scheme(self, wanted: Scheme) -> Result<Socket> {
        if self.scheme == wanted {
            return Ok(self.socket);
        }
        let reason = format!("it is a {} socket, and no {wanted} socket", self.scheme);
        Err(Error::Inherited { socket: self.name, reason })
    }
}

impl AsFd for InheritedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What kind of socket it is, or why no server can serve it.
fn scheme_of(socket: &Socket) -> std::result::Result<Scheme, String> {
    // Fails for what is not a socket.
    let kind = socket.r#type().map_err(|error| error.to_string())?;
    let domain = socket.local_addr().map_err(|error| error.to_string())?.domain();
    let is_ip = domain == Domain::IPV4 || domain == Domain::IPV6;
    let scheme = match kind {
        Type::STREAM if is_ip => Scheme::Tcp,
        Type::STREAM if domain == Domain::UNIX => Scheme::Unix,
        Type::DGRAM if is_ip => Scheme::Udp,
        Type::DGRAM if domain == Domain::UNIX => Scheme::UnixDatagram,
        _ => return Err(format!("no server serves a {domain:?} socket of {kind:?}")),
    };
    let is_listening = is_listening(socket).map_err(|error| error.to_string())?;
    if kind == Type::STREAM && !is_listening {
        return Err("it does not listen".to_owned());
    }
    Ok(scheme)
}

impl TryFrom<InheritedSocket> for Tcp {
    type Error = Error;

    fn try_from(socket: InheritedSocket) -> Result<Tcp> {
        Ok(TcpListener::from(socket.of_scheme(Scheme::Tcp)?).into())
    }
}

impl TryFrom<InheritedSocket> for UnixStream {
    type Error = Error;

    fn try_from(socket: InheritedSocket) -> Result<UnixStream> {
        let file = socket.file();
        let listener = UnixListener::from(socket.of_scheme(Scheme::Unix)?);
        let mut transport = UnixStream::from(listener);
        transport.file = file;
        Ok(transport)
    }
}

impl TryFrom<InheritedSocket> for Udp {
    type Error = Error;

    fn try_from(socket: InheritedSocket) -> Result<Udp> {
        Ok(UdpSocket::from(socket.of_scheme(Scheme::Udp)?).into())
    }
}

impl TryFrom<InheritedSocket> for UnixDatagram {
    type Error = Error;

    fn try_from(socket: InheritedSocket) -> Result<UnixDatagram> {
        let file = socket.file();
        let socket = StdUnixDatagram::from(socket.of_scheme(Scheme::UnixDatagram)?);
        let mut transport = UnixDatagram::from(socket);
        transport.file = file;
        Ok(transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(descriptor: impl Into<OwnedFd>) -> String {
        InheritedSocket::new("it".to_owned(), descriptor.into()).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_is_of_one_transport_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = InheritedSocket::new("web".to_owned(), listener.into()).unwrap();
        assert_eq!((socket.name(), socket.scheme()), ("web", Scheme::Tcp));
        let error = UnixStream::try_from(socket).unwrap_err();
        assert_eq!(error.to_string(), "web: it is a TCP socket, and no Unix stream socket");
        let socket = UdpSocket::bind("[::1]:0").unwrap();
        let socket = InheritedSocket::new("dns".to_owned(), socket.into()).unwrap();
        assert_eq!(socket.scheme(), Scheme::Udp);
        Udp::try_from(socket).unwrap();
    }

    #[test]
    fn what_does_not_listen_or_is_no_socket_is_refused() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(refused(one), "it: it does not listen");
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(refused(file).contains("non-socket"), "ENOTSOCK");
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        assert!(refused(packets).starts_with("it: no server serves"));
    }

    #[test]
    fn only_what_was_inherited_is_taken() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file);
        for number in [number, 1_000_000, -1] {
            let error = InheritedSocket::from_descriptor(number).unwrap_err();
            assert!(matches!(error, Error::Inherited { .. }), "{error}");
        }
        assert!(file.metadata().is_ok());
    }
}
