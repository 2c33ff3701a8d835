//! Descriptors that a connection receives and sends with its bytes, on a Unix stream socket.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::{Connection, Reader, Writer};

impl Connection {
    /// From now on, descriptors that the peer sends with its bytes are kept, for
    /// [`next_fd`](Connection::next_fd): at most `max` that the handler has not taken, from 1 to 253.
    /// Without this they are closed unseen, as those that came before. (`SCM_RIGHTS`,
    /// [unix(7)](https://man7.org/linux/man-pages/man7/unix.7.html).)
    ///
    /// Descriptors travel with bytes: those of one [`send_fds`](Connection::send_fds) with the first of
    /// its bytes, and a read never returns these and bytes that were sent after them. Reads read ahead,
    /// so that `next_fd` may have a descriptor before its bytes were returned, but never after. So call
    /// this before the first read; have the protocol say in its bytes how many descriptors belong to a
    /// message; and take so many when these bytes were read.
    ///
    /// ```
    /// use std::fs::File;
    /// use std::io::{Read, Write};
    /// use socketserver::{Connection, HandlerResult};
    ///
    /// /// Answers each line `length` with the length of the file that was sent with it.
    /// fn measure(client: &mut Connection) -> HandlerResult {
    ///     client.receive_fds(1)?;
    ///     let mut line = String::new();
    ///     while client.read_line(&mut line)? > 0 {
    ///         let file = File::from(client.next_fd().ok_or("no file")?);
    ///         writeln!(client, "{} bytes", file.metadata()?.len())?;
    ///         line.clear();
    ///     }
    ///     Ok(())
    /// }
    /// # use std::os::fd::AsFd;
    /// # use socketserver::{ConnectOptions, ThreadingUnixStreamServer};
    /// # let server = ThreadingUnixStreamServer::bind("unix:@socketserver-doc-fds", measure)?.spawn()?;
    /// # let second = std::time::Duration::from_secs(9);
    /// # let mut client = server.handle().connect("unix:@socketserver-doc-fds", second)?;
    /// # let file = File::open("Cargo.toml")?;
    /// # client.send_fds(b"length\n", &[file.as_fd()])?;
    /// # let mut answer = String::new();
    /// # client.read_line(&mut answer)?;
    /// # assert_eq!(answer, format!("{} bytes\n", file.metadata()?.len()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// A descriptor of a peer is to be trusted as little as its bytes: it may be of any kind, may be
    /// read, written and truncated by the peer at the same time, and a read of it may block. A
    /// [relay](Connection::relay) passes no descriptors on.
    ///
    /// # Errors
    /// `Unsupported` if the connection is not a Unix stream socket, or is one under TLS.
    ///
    /// A read fails with `InvalidData` ([`Error::TooManyDescriptors`](crate::Error::TooManyDescriptors))
    /// when a peer has sent more, or more than the process may open: these are closed, and the bytes
    /// that came with them are lost, so the handler should close the connection.
    pub fn receive_fds(&mut self, max: usize) -> io::Result<()> {
        self.stream.keep_descriptors(max)
    }

    /// The next of the descriptors that came with the bytes read so far, or read ahead: see
    /// [`receive_fds`](Connection::receive_fds). It is closed in programs that this process starts
    /// (`FD_CLOEXEC`). Those that are never taken are closed with the connection.
    pub fn next_fd(&mut self) -> Option<OwnedFd> {
        self.stream.next_descriptor()
    }

    /// Sends bytes and, with the first of them, descriptors: from none to 253. The peer gets copies of
    /// them. Both are sent at once, after the output so far.
    ///
    /// # Errors
    /// `InvalidInput` for no bytes, or more descriptors; `Unsupported` if the connection is not a Unix
    /// stream socket, or is one under TLS: nothing was sent then. The errors of a write;
    /// `ETOOMANYREFS` if the user's processes have sent too many that were not received yet.
    pub fn send_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.output().send_fds(bytes, fds)
    }
}

impl Reader<'_> {
    /// [`Connection::next_fd`].
    pub fn next_fd(&mut self) -> Option<OwnedFd> {
        self.0.link.stream.next_descriptor()
    }
}

impl Writer<'_> {
    /// [`Connection::send_fds`].
    ///
    /// # Errors
    /// Those of [`Connection::send_fds`].
    pub fn send_fds(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.send_fds(bytes, fds)
    }
}
