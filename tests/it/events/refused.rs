//! Requests that are not served, and what the server is short of.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::Tcp;

use super::*;
use crate::mixins::all_mixins;
use crate::support::TIMEOUT;
use crate::support::clients::{Client, ask, read_until_closed, tcp, udp};
use crate::support::servers::{Settings, serve_with};

/// The second client of a server with these settings is refused for this reason.
fn refuses_the_second(settings: impl Settings, handler: impl StreamRequestHandler, why: Refusal) {
    let handler = std::sync::Arc::new(handler);
    for (name, mixin) in all_mixins() {
        let (observer, told) = teller();
        let builder = settings.apply(TcpServer::builder().mixin(mixin)).observer(observer);
        let server = serve_with(builder, handler.clone());
        assert!(matches!(next(&told), Told::Listening(_)));
        let first = Client::of(&server);
        let (id, _) = next_accepted(&told);
        // A sequential server serves the second one afterwards, if it depends on the first.
        if name == "sequential" && matches!(why, Refusal::Full | Refusal::PeerLimit) {
            continue;
        }
        assert_eq!(ask(&first, "hello"), "hello");
        if name == "sequential" {
            drop(first);
            next_closed(&told, id);
        }
        let second = tcp(server.local_addr());
        let peer = Address::Tcp(second.local_addr().unwrap());
        read_until_closed(&second);
        if why == Refusal::Full {
            assert_eq!(next(&told), Told::Pressure("at the limit 1".into()), "{name}");
        }
        assert_eq!(next(&told), Told::Refused { id: None, peer, reason: why }, "{name}");
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

struct Full;

impl Settings for Full {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder.max_connections(1).overload(Overload::Refuse("full\n".into()))
    }
}

#[test]
fn a_connection_above_max_connections_is_refused_or_waits() {
    refuses_the_second(Full, Echo, Refusal::Full);
    // Under `Defer` nothing is refused, but the server is at its limit.
    let (observer, told) = teller();
    let builder = ThreadingTcpServer::builder().max_connections(1).observer(observer);
    let server = serve_with(builder, Echo);
    assert!(matches!(next(&told), Told::Listening(_)));
    let first = Client::of(&server);
    let (id, _) = next_accepted(&told);
    assert_eq!(next(&told), Told::Pressure("at the limit 1".into()));
    let second = Client::of(&server);
    drop(first);
    // The place is free before that is told.
    let mut rest = [next(&told), next(&told)];
    rest.sort_by_key(|told| matches!(told, Told::Accepted { .. }));
    assert!(matches!(rest[0], Told::Closed { id: closed, .. } if closed == id));
    assert!(matches!(rest[1], Told::Accepted { .. }));
    assert_eq!(ask(&second, "hello"), "hello");
}

#[test]
fn a_server_that_has_room_again_says_so() {
    let (observer, told) = teller();
    let builder = ThreadingTcpServer::builder().max_connections(1).observer(observer);
    let server = serve_with(builder, Echo);
    let client = Client::of(&server);
    while next(&told) != Told::Pressure("at the limit 1".into()) {}
    drop(client);
    // Five seconds later.
    let is_below =
        |told: &Told| matches!(told, Told::Pressure(text) if text.contains("BelowLimit"));
    while !is_below(&next(&told)) {}
    drop(server);
}

struct OnePerPeer;

impl Settings for OnePerPeer {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder.max_connections_per_peer(1)
    }
}

#[test]
fn a_connection_above_the_limit_of_its_peer_is_refused() {
    refuses_the_second(OnePerPeer, Echo, Refusal::PeerLimit);
}

struct OneAnHour;

impl Settings for OneAnHour {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        let per = Duration::from_secs(3600);
        builder.connection_rate(ConnectionRate { connections: 1, per })
    }
}

#[test]
fn a_connection_or_datagram_above_the_rate_is_refused() {
    refuses_the_second(OneAnHour, Echo, Refusal::Rate);
    let (observer, told) = teller();
    let server = serve_with(OneAnHour.apply(UdpServer::builder()).observer(observer), Echo);
    let client = udp(server.local_addr());
    let peer = Address::Udp(client.local_addr().unwrap());
    (0..2).for_each(|_| _ = client.send(b"hello").unwrap());
    let refused = Told::Refused { id: None, peer, reason: Refusal::Rate };
    while next(&told) != refused {}
}

#[test]
fn a_peer_that_the_access_list_denies_is_refused() {
    for (_, mixin) in all_mixins() {
        let (observer, told) = teller();
        let access = Access::open().deny(IpAddr::from([127, 0, 0, 1]));
        let builder = TcpServer::builder().mixin(mixin).access(access).observer(observer);
        let server = serve_with(builder, Echo);
        assert!(matches!(next(&told), Told::Listening(_)));
        let client = tcp(server.local_addr());
        let peer = Address::Tcp(client.local_addr().unwrap());
        assert_eq!(next(&told), Told::Refused { id: None, peer, reason: Refusal::Access });
    }
}

/// Denies all but the first.
struct Verifies(AtomicBool);

impl StreamRequestHandler for Verifies {
    fn verify_request(&self, _connection: &Connection) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        StreamRequestHandler::handle(&Echo, connection)
    }
}

#[test]
fn a_request_that_the_handler_denies_is_refused() {
    for (name, mixin) in all_mixins() {
        let (observer, told) = teller();
        let builder = TcpServer::builder().mixin(mixin).observer(observer);
        let server = serve_with(builder, Verifies(AtomicBool::new(true)));
        assert!(matches!(next(&told), Told::Listening(_)));
        let client = tcp(server.local_addr());
        let peer = Address::Tcp(client.local_addr().unwrap());
        let refused = Told::Refused { id: None, peer, reason: Refusal::Unverified };
        assert_eq!(next(&told), refused, "{name}");
    }
}

#[test]
fn a_request_without_a_thread_is_accepted_refused_and_closed() {
    let (observer, told) = teller();
    let mixin = Threading::new().stack_size(1 << 60);
    let server = serve_with(TcpServer::builder().mixin(mixin).observer(observer), Echo);
    assert!(matches!(next(&told), Told::Listening(_)));
    let client = tcp(server.local_addr());
    let (id, peer) = next_accepted(&told);
    assert_eq!(next(&told), Told::Refused { id: Some(id), peer, reason: Refusal::NoWorker });
    assert_eq!(next_closed(&told, id), CloseReason::Stopped);
    drop(client);
}

/// TCP whose first accept fails for want of a descriptor.
struct Faulty(Tcp, AtomicBool);

impl AsFd for Faulty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for Faulty {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> socketserver::Result<Faulty> {
        Tcp::bind(endpoint, options).map(|tcp| Faulty(tcp, AtomicBool::new(false)))
    }

    fn local_addr(&self) -> io::Result<Address> {
        self.0.local_addr()
    }

    fn accept(&self, options: &TransportOptions) -> io::Result<IncomingStream> {
        match self.1.swap(true, Ordering::SeqCst) {
            true => self.0.accept(options),
            false => Err(rustix::io::Errno::MFILE.into()),
        }
    }
}

#[test]
fn a_shortage_of_descriptors_is_told_once_and_so_is_its_end() {
    let (observer, told) = teller();
    let builder = Server::<Faulty, Threading>::builder().observer(observer);
    let server = serve_with(builder, Echo);
    assert!(matches!(next(&told), Told::Listening(_)));
    assert_eq!(ask(&tcp(server.local_addr()), "hello"), "hello");
    let number = rustix::io::Errno::MFILE.raw_os_error();
    assert_eq!(next(&told), Told::Pressure(format!("accept fails {number}")));
    let (id, _) = next_accepted(&told);
    next_closed(&told, id);
    let Told::Pressure(text) = next(&told) else { panic!() };
    assert!(text.starts_with("AcceptWorks"), "{text}");
}
