//! Handlers that connect to other servers, and relay: under each mixin that serves beside a test, from
//! each stream transport to each.

mod close_with_client;
mod connect;
mod fibers;
mod relay;
mod relay_bytes;
mod relay_ends;
mod stop;

use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::*;

use crate::mixins::all_mixins;
use crate::support::clients::{Client, unix_address};
use crate::support::servers::{Settings, serve_at};
use crate::support::{TIMEOUT, abstract_name, bound_test, next, wait_until};

const SHORT: Duration = Duration::from_millis(60);

/// The transports of streams.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Tcp,
    Unix,
}

const KINDS: [Kind; 2] = [Kind::Tcp, Kind::Unix];

/// A server behind the one that is tested, played by the test.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, String),
}

impl Listener {
    fn new(kind: Kind) -> Listener {
        match kind {
            Kind::Tcp => Listener::Tcp(TcpListener::bind("127.0.0.1:0").unwrap()),
            Kind::Unix => {
                let name = format!("unix:{}", abstract_name());
                let endpoint: Endpoint = name.parse().unwrap();
                let address = unix_address(endpoint.unix_name(Scheme::Unix).unwrap());
                Listener::Unix(UnixListener::bind_addr(&address).unwrap(), name)
            }
        }
    }

    fn address(&self) -> String {
        match self {
            Listener::Tcp(listener) => listener.local_addr().unwrap().to_string(),
            Listener::Unix(_, name) => name.clone(),
        }
    }

    /// The next connection.
    #[track_caller]
    fn accept(&self) -> Client {
        let accepted = Mutex::new(None);
        wait_until("the upstream is connected to", || {
            *accepted.lock() = self.try_accept();
            accepted.lock().is_some()
        });
        accepted.into_inner().unwrap()
    }

    fn try_accept(&self) -> Option<Client> {
        match self {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true).unwrap();
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                stream.set_write_timeout(Some(TIMEOUT)).unwrap();
                Some(Client::Tcp(stream))
            }
            Listener::Unix(listener, _) => {
                listener.set_nonblocking(true).unwrap();
                let (stream, _) = listener.accept().ok()?;
                stream.set_nonblocking(false).unwrap();
                stream.set_read_timeout(Some(TIMEOUT)).unwrap();
                stream.set_write_timeout(Some(TIMEOUT)).unwrap();
                Some(Client::Unix(stream))
            }
        }
    }
}

/// A server that relays, and the server behind it.
struct Gateway {
    mixin: &'static str,
    kinds: [Kind; 2],
    server: RunningServer,
    upstream: Listener,
    relayed: Receiver<io::Result<Relayed>>,
}

impl Gateway {
    /// Calls `prepare` with the client and the upstream of each pair before it is relayed.
    fn new(
        (mixin, runs): (&'static str, Box<dyn Spawnable>),
        kinds: [Kind; 2],
        settings: &impl Settings,
        prepare: impl Fn(&mut Connection, &mut Connection) -> io::Result<()> + Send + Sync + 'static,
    ) -> Gateway {
        let upstream = Listener::new(kinds[1]);
        let (sender, relayed) = channel();
        let (sender, address): (Mutex<Sender<_>>, _) = (Mutex::new(sender), upstream.address());
        let handler = handler_fn(move |client| {
            let mut upstream = client.connect(&*address, TIMEOUT)?;
            prepare(client, &mut upstream)?;
            let relayed = client.relay(&mut upstream);
            let error = relayed.as_ref().err().map(|error| io::Error::from(error.kind()));
            let _ = sender.lock().send(relayed);
            error.map_or(Ok(()), |error| Err(error.into()))
        });
        let server = match kinds[0] {
            Kind::Tcp => {
                let builder = settings.apply(TcpServer::builder().mixin(runs));
                serve_at("127.0.0.1:0", builder, handler)
            }
            Kind::Unix => {
                let builder = settings.apply(UnixStreamServer::builder().mixin(runs));
                serve_at(&format!("unix:{}", abstract_name()), builder, handler)
            }
        };
        Gateway { mixin, kinds, server, upstream, relayed }
    }

    /// A client, and the upstream that it is relayed to.
    #[track_caller]
    fn pair(&self) -> (Client, Client) {
        let client = Client::of(&self.server);
        (client, self.upstream.accept())
    }

    /// How the relay of a pair has ended.
    #[track_caller]
    fn relayed(&self) -> io::Result<Relayed> {
        next(&self.relayed)
    }

    /// The relay of the next pair has ended well, and carried so much.
    #[track_caller]
    fn has_relayed(&self, sent: usize, received: usize, ended_first: RelayEnd) {
        let relayed = self.relayed().unwrap_or_else(|error| panic!("{self}: {error}"));
        assert_eq!(
            (relayed.sent, relayed.received, relayed.ended_first),
            (sent as u64, received as u64, ended_first),
            "{self}"
        );
    }

    #[track_caller]
    fn stops_clean(self) {
        let name = self.to_string();
        let report = self.server.stop(TIMEOUT);
        assert!(report.is_clean(), "{name}: {report:?}");
    }
}

impl std::fmt::Display for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {:?}", self.mixin, self.kinds)
    }
}

/// Runs a test on a gateway of each mixin, from each transport to each.
fn on_every_gateway<P>(settings: impl Settings + Sync, prepare: P, test: impl Fn(Gateway) + Sync)
where
    P: Fn(&mut Connection, &mut Connection) -> io::Result<()> + Clone + Send + Sync + 'static,
{
    let all = KINDS.into_iter().flat_map(|client| KINDS.map(|upstream| [client, upstream]));
    bound_test();
    thread::scope(|scope| {
        for kinds in all {
            let (settings, prepare, test) = (&settings, prepare.clone(), &test);
            scope.spawn(move || on_gateways(kinds, settings, prepare, test));
        }
    });
}

/// The same from one transport to one. All run at the same time, since most of them wait.
fn on_gateways<P>(
    kinds: [Kind; 2],
    settings: &(impl Settings + Sync),
    prepare: P,
    test: impl Fn(Gateway) + Sync,
) where
    P: Fn(&mut Connection, &mut Connection) -> io::Result<()> + Clone + Send + Sync + 'static,
{
    bound_test();
    thread::scope(|scope| {
        for mixin in all_mixins() {
            let (prepare, test) = (prepare.clone(), &test);
            scope.spawn(move || test(Gateway::new(mixin, kinds, settings, prepare)));
        }
    });
}

fn as_it_is(_: &mut Connection, _: &mut Connection) -> io::Result<()> {
    Ok(())
}

/// Writes until there is no room for a while: the receiver, and all between, are full.
#[track_caller]
fn fill(mut stream: &Client) -> usize {
    let timeout = |timeout| match stream {
        Client::Tcp(stream) => stream.set_write_timeout(Some(timeout)).unwrap(),
        Client::Unix(stream) => stream.set_write_timeout(Some(timeout)).unwrap(),
    };
    timeout(2 * SHORT);
    let mut total = 0;
    while let Ok(length) = stream.write(&[b'x'; 64 * 1024]) {
        total += length;
    }
    timeout(TIMEOUT);
    total
}

/// Reads exactly so many bytes.
#[track_caller]
fn read_exactly(mut stream: &Client, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}
