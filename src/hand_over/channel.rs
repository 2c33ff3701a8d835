//! [`Channel`]: lines, and descriptors with them, between the two processes, within a time limit.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use crate::net::PeerCredentials;
use crate::sys::poll::{Interest, poll};
use crate::sys::rights::{self, MAX_DESCRIPTORS};
use crate::sys::socket::{self, Mode};

/// The longest line: the name of a Unix socket has at most four characters for each of its bytes, a
/// host name 255.
const MAX_LINE: usize = 2048;

pub(super) struct Channel {
    stream: UnixStream,
    deadline: Instant,
    /// Received, and not read yet.
    buffer: Vec<u8>,
    /// That were received with them.
    descriptors: Vec<OwnedFd>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream, deadline: Instant) -> Channel {
        Channel { stream, deadline, buffer: Vec::new(), descriptors: Vec::new() }
    }

    /// The same, with another deadline.
    pub(super) fn until(self, deadline: Instant) -> Channel {
        Channel { deadline, ..self }
    }

    /// Whether there is a line already.
    pub(super) fn has_line(&self) -> bool {
        self.buffer.contains(&b'\n')
    }

    /// The process at the other end.
    pub(super) fn peer(&self) -> io::Result<PeerCredentials> {
        PeerCredentials::of(self.stream.as_fd())
    }

    pub(super) fn send(&self, line: &str) -> io::Result<()> {
        self.send_with(&format!("{line}\n"), &[])
    }

    /// The descriptors, at most [`MAX_DESCRIPTORS`], go with the first byte of the text.
    pub(super) fn send_with(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (mut rest, mut descriptors) = (text.as_bytes(), descriptors);
        while !rest.is_empty() {
            let bytes = [IoSlice::new(rest)];
            let sent = match descriptors {
                [] => socket::send(self.stream.as_fd(), &bytes, Mode::Try),
                some => rights::send(self.stream.as_fd(), &bytes, some, Mode::Try),
            };
            match sent {
                Ok(sent) => (rest, descriptors) = (&rest[sent..], &[]),
                Err(error) => self.wait_after(error, Interest::Write, None)?,
            }
        }
        Ok(())
    }

    /// The next line, without its newline.
    ///
    /// # Errors
    /// `UnexpectedEof`; `TimedOut` at the deadline; `InvalidData` for what is no line, or if there were
    /// more descriptors than this process can have; `Interrupted` if `stop` is readable.
    pub(super) fn line(&mut self, stop: Option<BorrowedFd<'_>>) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8(line[..end].to_vec());
                return line.map_err(|_| invalid("a line that is not UTF-8"));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(invalid("a line that is too long"));
            }
            self.receive(stop)?;
        }
    }

    fn receive(&mut self, stop: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut bytes = [0; MAX_LINE];
        loop {
            match rights::receive(self.stream.as_fd(), &mut bytes, MAX_DESCRIPTORS, Mode::Try) {
                Ok(received) if received.had_more => {
                    return Err(invalid("more descriptors than this process can have"));
                }
                Ok(received) if received.length == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(received) => {
                    self.buffer.extend_from_slice(&bytes[..received.length]);
                    self.descriptors.extend(received.descriptors);
                    return Ok(());
                }
                Err(error) => self.wait_after(error, Interest::Read, stop)?,
            }
        }
    }

    /// Those that have come with the lines so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Waits until what has failed with this error may succeed.
    fn wait_after(
        &self,
        error: io::Error,
        interest: Interest,
        stop: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(error),
        }
        let wanted = [Some((self.stream.as_fd(), interest)), stop.map(|fd| (fd, Interest::Read))];
        match poll(wanted, [], Some(self.deadline))? {
            [_, true] => Err(io::ErrorKind::Interrupted.into()),
            [true, _] => Ok(()),
            [false, false] => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Duration;

    use super::*;

    fn pair() -> (UnixStream, Channel) {
        let (one, other) = UnixStream::pair().unwrap();
        (one, Channel::new(other, Instant::now() + Duration::from_millis(50)))
    }

    #[test]
    fn a_line_has_an_end_a_limit_and_a_deadline() {
        let (mut peer, mut channel) = pair();
        peer.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(channel.line(None).unwrap(), "one");
        assert_eq!(channel.line(None).unwrap(), "two");
        assert_eq!(channel.line(None).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(peer);
        assert_eq!(channel.line(None).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

        let (mut peer, mut channel) = pair();
        peer.write_all(&vec![b'x'; 2 * MAX_LINE]).unwrap();
        assert_eq!(channel.line(None).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut peer, mut channel) = pair();
        peer.write_all(b"\xff\n").unwrap();
        assert_eq!(channel.line(None).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_peer_that_does_not_read_is_not_waited_for_beyond_the_deadline() {
        let (_peer, channel) = pair();
        let error = channel.send(&"x".repeat(10_000_000)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn descriptors_come_with_the_first_line() {
        let (one, other) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let (sender, mut receiver) = (Channel::new(one, deadline), Channel::new(other, deadline));
        let file = std::fs::File::open("/dev/null").unwrap();
        sender.send_with("a\nb\n", &[file.as_fd(), file.as_fd()]).unwrap();
        assert_eq!(receiver.line(None).unwrap(), "a");
        assert_eq!(receiver.take_descriptors().len(), 2);
        assert_eq!(receiver.line(None).unwrap(), "b");
        assert!(receiver.take_descriptors().is_empty());
    }
}
