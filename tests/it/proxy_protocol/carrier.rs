//! A stream that changes its bytes, as TLS does: a header comes before it does so.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::Tcp;
use socketserver::*;

use super::{V1, V2, proxies};
use crate::mixins::all_mixins;
use crate::support::clients::{Client, rest_of};
use crate::support::servers::serve_at;

/// TCP on which every bit is the other way round.
struct InvertedTcp(Tcp);

impl AsFd for InvertedTcp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for InvertedTcp {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<InvertedTcp> {
        Ok(InvertedTcp(Tcp::bind(endpoint, options)?))
    }

    fn prepare(&self, options: &TransportOptions) -> io::Result<()> {
        self.0.prepare(options)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingStream> {
        let IncomingStream { stream, peer } = self.0.accept(options)?;
        Ok(IncomingStream { stream: Box::new(Inverted(stream)), peer })
    }
}

struct Inverted(Box<dyn Stream>);

fn invert(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

impl Inverted {
    fn inverted(buffer: &mut [u8], read: io::Result<usize>) -> io::Result<usize> {
        let length = read?;
        buffer[..length].iter_mut().for_each(|byte| *byte = !*byte);
        Ok(length)
    }
}

impl Stream for Inverted {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.read(buffer);
        Inverted::inverted(buffer, read)
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.write(&[IoSlice::new(&invert(&slices[0]))])
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.0.try_read(buffer);
        Inverted::inverted(buffer, read)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write(&[IoSlice::new(&invert(&slices[0]))])
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_write_timeout(timeout)
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }

    fn carrier(&self) -> Option<&dyn Stream> {
        Some(&*self.0)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_fd()
    }
}

#[test]
fn a_header_is_read_from_the_carrier_and_the_rest_from_the_stream() {
    for (name, mixin) in all_mixins() {
        let builder = Builder::<InvertedTcp, _>::new(mixin).proxy_protocol(proxies());
        let server = serve_at("127.0.0.1:0", builder, Echo);
        for header in [V1, V2] {
            let client = Client::of(&server);
            client.send([header, &invert(b"hello\n")].concat());
            client.shutdown(Shutdown::Write);
            assert_eq!(rest_of(&client), invert(b"hello\n"), "{name}");
        }
    }
}
