//! Who a client is, by its first bytes, or by its silence.

use std::collections::HashMap;
use std::io::{self, BufRead};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::{Connection, Select};

/// With this a browser begins.
const METHOD: &[u8] = b"GET ";

/// With this byte a TLS handshake begins
/// ([RFC 8446, 5.1](https://www.rfc-editor.org/rfc/rfc8446#section-5.1)).
const TLS_HANDSHAKE: u8 = 0x16;

/// Connections of one address within this time may be those of one browser.
const NEARBY: Duration = Duration::from_secs(2);

/// How long a browser's spare connection is kept.
const SPARE_TIMEOUT: Duration = Duration::from_secs(300);

/// How many addresses are remembered.
const MAX_ADDRESSES: usize = 10_000;

/// Tells browsers from line clients.
///
/// A browser opens connections in advance, sends nothing on them until it needs them, and takes what
/// it finds there for the response. So a silent client must not be greeted too soon, and one that
/// came together with a request of the same address must not be greeted at all.
pub(crate) struct Arrivals {
    /// How long a client is silent before it is greeted.
    silence: Duration,
    /// When each address sent its last request.
    requests: Mutex<HashMap<IpAddr, Instant>>,
}

/// What a client is, with the begin of its first line, as far as that was read.
pub(crate) enum Client {
    Browser(&'static [u8]),
    Lines(&'static [u8]),
    /// It has closed the connection, or is not to be answered.
    Gone,
}

impl Arrivals {
    pub(crate) fn new(silence: Duration) -> Arrivals {
        Arrivals { silence, requests: Mutex::default() }
    }

    /// Waits until it is clear what the client is.
    pub(crate) fn identify(&self, connection: &mut Connection) -> io::Result<Client> {
        let arrival = Instant::now();
        let mut select = Select::new();
        if select.wait(&[&*connection], arrival + self.silence)?.is_none() {
            if !self.is_spare(connection, arrival) {
                return Ok(Client::Lines(b""));
            }
            if select.wait(&[&*connection], Instant::now() + SPARE_TIMEOUT)?.is_none() {
                return Ok(Client::Gone);
            }
        }
        let client = read_first(connection)?;
        if let (Client::Browser(_), Some(address)) = (&client, address(connection)) {
            self.record_request(address);
        }
        Ok(client)
    }

    fn is_spare(&self, connection: &Connection, arrival: Instant) -> bool {
        let request = address(connection).and_then(|of| self.requests.lock().get(&of).copied());
        request.is_some_and(|request| request + NEARBY > arrival)
    }

    fn record_request(&self, address: IpAddr) {
        let now = Instant::now();
        let mut requests = self.requests.lock();
        if requests.len() >= MAX_ADDRESSES {
            requests.retain(|_, request| now < *request + self.silence + NEARBY);
        }
        if requests.len() < MAX_ADDRESSES {
            requests.insert(address, now);
        }
    }
}

fn address(connection: &Connection) -> Option<IpAddr> {
    connection.peer_addr().socket_addr().map(|address| address.ip())
}

/// Reads as much of [`METHOD`] as there is, and nothing else.
fn read_first(connection: &mut Connection) -> io::Result<Client> {
    let mut read = 0;
    loop {
        let available = connection.fill_buf()?;
        let same = METHOD[read..].iter().zip(available).take_while(|(one, other)| one == other);
        let same = same.count();
        let (is_end, differs) = (available.is_empty(), same < available.len());
        let is_tls = available.first() == Some(&TLS_HANDSHAKE);
        connection.consume(same);
        read += same;
        match read {
            0 if is_end || is_tls => return Ok(Client::Gone),
            _ if read == METHOD.len() => return Ok(Client::Browser(METHOD)),
            _ if is_end || differs => return Ok(Client::Lines(&METHOD[..read])),
            _ => {}
        }
    }
}
