//! Binding to all addresses of a host name, at one port.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

use super::Transport;
use crate::address::{Endpoint, Scheme};
use crate::error::{Error, Result};

/// Binds to each address of the endpoint that this machine has, or to none. For port 0 all get the
/// same port, which the system chooses for the first one.
pub(super) fn bind_each<T: Transport>(
    endpoint: &Endpoint,
    scheme: Scheme,
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Vec<T>> {
    let mut addresses = endpoint.resolve(scheme)?;
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    bind_addresses(&addresses, bind).map_err(|(address, source)| {
        let address = match &addresses[..] {
            [_] => endpoint.to_string(),
            _ => format!("{endpoint} ({address})"),
        };
        Error::Bind { address, source }
    })
}

type Failure = (SocketAddr, io::Error);

fn bind_addresses<T: Transport>(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Vec<T>, Failure> {
    let is_taken = |(_, error): &Failure| error.kind() == io::ErrorKind::AddrInUse;
    for _ in 1..MAX_PORTS {
        match bind_all(addresses, &bind) {
            // Another socket has the port that was chosen for the first address.
            Err(failure) if addresses[0].port() == 0 && is_taken(&failure) => {}
            bound => return bound,
        }
    }
    bind_all(addresses, bind)
}

/// How many ports are tried for several addresses. Each is free with a high probability.
const MAX_PORTS: usize = 32;

/// The error is that of the address that failed, or of the last one if the machine has none of them.
fn bind_all<T: Transport>(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<Vec<T>, Failure> {
    let mut bound: Vec<T> = Vec::new();
    let (mut port, mut absent) = (None, None);
    for address in addresses {
        let mut address = *address;
        address.set_port(port.unwrap_or(address.port()));
        match bind(address) {
            Ok(socket) => {
                port = socket.local_addr().map_err(|error| (address, error))?.port();
                bound.push(socket);
            }
            Err(error) if is_absent(&error) => {
                log::info!("not listening on {address}: {error}");
                absent = Some((address, error));
            }
            Err(error) => return Err((address, error)),
        }
    }
    match absent {
        Some(failure) if bound.is_empty() => Err(failure),
        _ => Ok(bound),
    }
}

/// Whether the machine has no such address, or no such family of addresses.
fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::net::{IpAddr, TcpListener};

    use super::*;
    use crate::transport::Tcp;

    #[test]
    fn another_port_is_chosen_when_the_first_is_taken_at_one_of_the_addresses() {
        let (ports, failures) = (RefCell::new(Vec::new()), Cell::new(0));
        let bind = |address: SocketAddr| {
            if address.port() == 0 {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                ports.borrow_mut().push(listener.local_addr()?.port());
                return Ok(Tcp::from(listener));
            }
            assert_eq!(Some(&address.port()), ports.borrow().last());
            match failures.replace(failures.get() + 1) {
                0..3 => Err(io::ErrorKind::AddrInUse.into()),
                _ => TcpListener::bind("127.0.0.1:0").map(Tcp::from),
            }
        };
        let addresses = ["127.0.0.1:0", "127.0.0.2:0"].map(|text| text.parse().unwrap());
        let bound = bind_addresses(&addresses, bind).unwrap();
        assert_eq!((bound.len(), ports.borrow().len()), (2, 4));
    }

    #[test]
    fn an_address_that_the_machine_lacks_is_left_out_unless_it_has_none() {
        // RFC 5737 and RFC 3849 keep these for documentation.
        let absent = ["192.0.2.1:0", "[2001:db8::1]:0"].map(|text| text.parse().unwrap());
        let bind = |address: SocketAddr| TcpListener::bind(address).map(Tcp::from);
        let error = bind_all(&absent, bind).unwrap_err();
        assert_eq!(error.0, absent[1]);
        let addresses = [absent[0], "127.0.0.1:0".parse().unwrap(), absent[1]];
        let bound = bind_all(&addresses, bind).unwrap();
        assert_eq!(bound.len(), 1);
        let address = bound[0].local_addr().unwrap();
        assert_eq!(address.ip(), Some(IpAddr::from([127, 0, 0, 1])));
    }
}
