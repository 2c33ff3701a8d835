//! The echo protocol, over streams and datagrams
//! ([RFC 862](https://www.rfc-editor.org/rfc/rfc862)).

use std::io::Write;

use crate::{
    Address, Connection, DatagramRequest, DatagramRequestHandler, HandlerResult,
    StreamRequestHandler,
};

/// Sends back each line, of any bytes, or each datagram. A last line may lack its end.
///
/// A UDP datagram is denied if its source port is below 1024 or the server's own. Its sender would
/// be a service, which may answer the answer: a forged source address starts an exchange without an
/// end ([CERT VU#417980](https://kb.cert.org/vuls/id/417980)). Where there are services on other
/// ports, a [`connection_rate`](crate::Builder::connection_rate) ends such an exchange, with the
/// first datagram above the rate.
///
/// ```
/// use socketserver::{Connection, StreamRequestHandler, services::Echo};
///
/// let mut connection = Connection::in_memory("one\ntwo");
/// StreamRequestHandler::handle(&Echo, connection.as_mut()).unwrap();
/// assert_eq!(connection.output(), b"one\ntwo");
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl StreamRequestHandler for Echo {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(&line)?;
            line.clear();
        }
        Ok(())
    }
}

impl DatagramRequestHandler for Echo {
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        let port = |address: &Address| match address {
            Address::Udp(address) => Some(address.port()),
            _ => None,
        };
        let peer = port(request.peer_addr());
        peer.is_none_or(|peer| peer >= 1024 && Some(peer) != port(request.local_addr()))
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        request.reply(request.data())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_denied(peer: Address) -> bool {
        let mut request = DatagramRequest::in_memory("hello").with_peer(peer);
        !DatagramRequestHandler::verify_request(&Echo, request.as_mut())
    }

    #[test]
    fn datagrams_from_a_port_of_a_service_are_denied() {
        for peer in ["192.0.2.1:0", "192.0.2.1:7", "[2001:db8::1]:1023"] {
            assert!(is_denied(Address::Udp(peer.parse().unwrap())), "{peer}");
        }
        for peer in ["192.0.2.1:1024", "[2001:db8::1]:40000"] {
            assert!(!is_denied(Address::Udp(peer.parse().unwrap())), "{peer}");
        }
        assert!(!is_denied(Address::UnixDatagram(crate::UnixName::Unnamed)));
    }
}
