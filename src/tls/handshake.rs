//! The handshake of a connection that shares its stream.

use std::any::Any;
use std::io;
use std::time::Instant;

use super::session::Progress;
use super::stream::TlsStream;
use crate::net::{Interest, IoTimeout, SharedStream};

/// The TLS of a stream, if it has one.
pub(crate) fn of(stream: &SharedStream) -> Option<&TlsStream> {
    let inner: &dyn Any = stream.inner();
    inner.downcast_ref()
}

/// Does the handshake, if the stream has TLS; `TimedOut` if it is not complete by `deadline`. It waits as the stream's reads and
/// writes do.
pub(crate) fn handshake(stream: &SharedStream, deadline: Instant) -> io::Result<()> {
    let Some(tls) = of(stream) else { return Ok(()) };
    if tls.is_server() {
        // The client speaks first.
        stream.wait_for_input(&mut IoTimeout::Deadline(deadline))?;
    }
    loop {
        let interest = match tls.try_handshake()? {
            Progress::Done => {
                // What came with the last part of it may be decrypted.
                stream.set_readable();
                return Ok(());
            }
            Progress::WantsInput => Interest::Read,
            Progress::WantsRoom => Interest::Write,
        };
        stream.wait(interest, Some(deadline))?;
    }
}
