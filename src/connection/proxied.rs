//! A connection that a proxy has passed on: its header, and the client's address in it.

use std::io;
use std::time::{Duration, Instant};

use super::Connection;
use crate::address::Address;
use crate::close_reason::CloseReason;
use crate::error::{Disconnect, Error};
use crate::net::IoTimeout;
use crate::proxy_protocol::{Parsed, ProxyHeader};

impl Connection {
    /// The address of the proxy, if [`peer_addr`](Connection::peer_addr) is that of a client behind
    /// [one](crate::Builder::proxy_protocol). `None` if the client has connected directly, or the proxy
    /// does not say for whom it has.
    pub fn proxied_by(&self) -> Option<&Address> {
        self.stream.proxied_by()
    }

    /// What the [proxy](crate::Builder::proxy_protocol) has said about the connection; `None` if the
    /// client has connected directly.
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.stream.proxy_header()
    }

    /// Reads the header that a proxy sends first, and no byte after it.
    ///
    /// # Errors
    /// Why the connection ends.
    pub(crate) fn receive_proxy_header(&mut self, timeout: Duration) -> Result<(), CloseReason> {
        let mut received = Vec::new();
        let header = self.read_proxy_header(&mut received, Instant::now() + timeout);
        let header = header.map_err(|error| {
            let by_server = self.link().closed_by_server();
            by_server.unwrap_or_else(|| match Disconnect::of(&error) {
                // A proxy that only looks whether the server is there, for instance.
                Some(Disconnect::Eof) if received.is_empty() => CloseReason::Eof,
                Some(Disconnect::Reset) if received.is_empty() => CloseReason::Reset,
                _ => {
                    log::info!("{} is a proxy, and is closed: {error}", self.peer_addr());
                    CloseReason::BadProxyHeader
                }
            })
        })?;
        self.stream.set_proxy_header(header);
        Ok(())
    }

    fn read_proxy_header(
        &self,
        received: &mut Vec<u8>,
        deadline: Instant,
    ) -> io::Result<ProxyHeader> {
        loop {
            let missing = match ProxyHeader::parse_prefix(received)? {
                Parsed::Whole { header, .. } => return Ok(header),
                Parsed::Incomplete { missing } => missing,
            };
            self.link().check_shutdown();
            let start = received.len();
            received.resize(start + missing, 0);
            let timeout = IoTimeout::Deadline(deadline);
            let read = self.stream.read_carrier(&mut received[start..], timeout);
            received.truncate(start + read.as_ref().map_or(0, |length| *length));
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Error::ProxyHeader { reason: "it did not come in time" }.into());
                }
                read => drop(read?),
            }
        }
    }
}

/// The header for a connection on behalf of this one's client: its address, and the one that it has
/// connected to, according to the proxies in between.
impl From<&Connection> for ProxyHeader {
    fn from(client: &Connection) -> ProxyHeader {
        let source = client.peer_addr().clone();
        let destination = client.proxy_header().and_then(ProxyHeader::destination).cloned();
        match destination.map_or_else(|| client.local_addr(), Ok) {
            Ok(destination) => ProxyHeader::new(source, destination),
            Err(_) => ProxyHeader::unknown(),
        }
    }
}
