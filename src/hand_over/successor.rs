//! The server that takes listeners over: [`Builder::take_over`](crate::Builder::take_over).

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::manifest::{Entry, parse_count};
use super::{
    Channel, FAILED, GREETING, KEPT, READY, YOURS, deadline_after, failed, is_trusted, one_line,
};
use crate::address::Endpoint;
use crate::error::{Error, Result};
use crate::transport::InheritedSocket;

/// A listener of the predecessor's.
pub(crate) struct Received {
    pub(crate) socket: InheritedSocket,
    /// Without the server's TLS.
    pub(crate) is_plain: bool,
    /// What it was bound for, if a server of this crate has bound it.
    pub(crate) endpoint: Option<Endpoint>,
}

/// The listeners are here, and the predecessor still serves.
pub(crate) struct TakenOver {
    channel: Channel,
    is_over: bool,
}

/// Receives the listeners of the server that hands over at this path, all or none. `None` if there is
/// no such server.
///
/// # Errors
/// [`Error::HandOver`].
pub(crate) fn receive_from(
    path: &Path,
    timeout: Duration,
) -> Result<Option<(Vec<Received>, TakenOver)>> {
    let Some(stream) = connect(path)? else {
        log::info!("no server hands over at {}", path.display());
        return Ok(None);
    };
    let lost = |error: io::Error| failed(format!("no listeners from {}: {error}", path.display()));
    let mut channel = Channel::new(stream, deadline_after(timeout));
    let peer = channel.peer().map_err(lost)?;
    if !is_trusted(peer) {
        let of = format!("{} is a socket of the user {}", path.display(), peer.uid);
        return Err(failed(of));
    }
    channel.send(GREETING).map_err(lost)?;
    let line = channel.line(None).map_err(lost)?;
    if let Some(reason) = line.strip_prefix(KEPT) {
        return Err(failed(format!("the predecessor keeps its listeners: {reason}")));
    }
    let count = parse_count(&line).ok_or_else(|| malformed(&line))?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let line = channel.line(None).map_err(lost)?;
        entries.push(Entry::parse(&line).ok_or_else(|| malformed(&line))?);
    }
    let descriptors = channel.take_descriptors();
    if descriptors.len() != count {
        return Err(failed(format!("{} descriptors of {count} listeners", descriptors.len())));
    }
    let received = entries.into_iter().zip(descriptors).map(|(entry, descriptor)| {
        let socket = InheritedSocket::new(entry.address.clone(), descriptor)?;
        let is_as_told =
            socket.scheme() == entry.scheme && socket.address()?.to_string() == entry.address;
        if !is_as_told {
            return Err(failed(format!("a socket that is not {}", entry.address)));
        }
        let socket = if entry.endpoint.is_some() { socket.with_file() } else { socket };
        Ok(Received { socket, is_plain: entry.is_plain, endpoint: entry.endpoint })
    });
    let received = received.collect::<Result<_>>()?;
    Ok(Some((received, TakenOver { channel, is_over: false })))
}

/// `None` if no process listens there.
fn connect(path: &Path) -> Result<Option<UnixStream>> {
    let give_up = Instant::now() + MAX_CONNECT_TIME;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(Some(stream)),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => return Ok(None),
                io::ErrorKind::ConnectionRefused if Instant::now() >= give_up => return Ok(None),
                io::ErrorKind::ConnectionRefused => thread::sleep(Duration::from_millis(1)),
                _ => return Err(failed(format!("cannot connect to {}: {error}", path.display()))),
            },
        }
    }
}

/// The file of a socket that has been bound may be there a moment before the socket listens.
const MAX_CONNECT_TIME: Duration = Duration::from_millis(100);

impl TakenOver {
    /// This server serves. When this returns, the listeners are its own: the predecessor stops, or is
    /// gone.
    ///
    /// # Errors
    /// [`Error::HandOver`] if the predecessor goes on, which has waited long enough for instance.
    pub(crate) fn ready(mut self) -> Result<()> {
        self.is_over = true;
        // If it fails, the predecessor has said before that it goes on, or is gone.
        let _ = self.channel.send(READY);
        match self.channel.line(None) {
            Ok(line) if line == YOURS => Ok(()),
            Ok(line) => {
                let reason = line.strip_prefix(KEPT).unwrap_or(&line);
                Err(failed(format!("the predecessor keeps its listeners: {reason}")))
            }
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(failed("the predecessor does not answer".to_owned()))
            }
            Err(error) => {
                // It was killed: if it went on, it would have said so.
                log::warn!("the predecessor has ended: {error}");
                Ok(())
            }
        }
    }

    /// This server does not serve.
    pub(crate) fn fail(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.is_over, true) {
            let _ = self.channel.send(&format!("{FAILED}{}", one_line(reason)));
        }
    }
}

impl Drop for TakenOver {
    fn drop(&mut self) {
        self.fail("it was dropped before it served");
    }
}

fn malformed(line: &str) -> Error {
    failed(format!("the predecessor has sent {:?}", one_line(line)))
}
