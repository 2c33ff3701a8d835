//! What comes before the handler: the header of a proxy, and TLS.

use std::net::IpAddr;

use socketserver::services::Echo;

use super::*;
use crate::mixins::all_mixins;
use crate::support::clients::{Client, line_of};
use crate::support::servers::serve_with;

const CLIENT: &str = "192.0.2.1:56324";

const HEADER: &str = "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n";

fn proxies() -> ProxyProtocol {
    Access::closed().allow(IpAddr::from([127, 0, 0, 1])).into()
}

/// A connection of a proxy, after it has been accepted: the proxy's end, its number, and its address.
fn accepted(server: &RunningServer, told: &Receiver<Told>) -> (Client, u64, Address) {
    assert!(matches!(next(told), Told::Listening(_)));
    let client = Client::of(server);
    let (id, proxy) = next_accepted(told);
    (client, id, proxy)
}

#[test]
fn the_client_behind_a_proxy_is_told_once_it_is_known() {
    for (name, mixin) in all_mixins() {
        let (observer, told) = teller();
        let builder = TcpServer::builder().mixin(mixin);
        let builder = builder.proxy_protocol(proxies()).observer(observer);
        let server = serve_with(builder, Echo);
        let (client, id, proxy) = accepted(&server, &told);
        client.send(format!("{HEADER}hello\n"));
        assert_eq!(line_of(&mut &client.file()), "hello", "{name}");
        let peer: Address = Address::Tcp(CLIENT.parse().unwrap());
        let (proxied_by, tls) = (Some(proxy), None);
        assert_eq!(next(&told), Told::Handshaken { id, peer: peer.clone(), proxied_by, tls });
        drop(client);
        let closed = Told::Closed { id, peer, reason: CloseReason::Eof, received: 6, sent: 6 };
        assert_eq!(next(&told), closed, "{name}");
    }
}

#[test]
fn a_bad_header_is_refused_and_closed() {
    for (name, mixin) in all_mixins() {
        let (observer, told) = teller();
        let builder = TcpServer::builder().mixin(mixin);
        let builder = builder.proxy_protocol(proxies()).observer(observer);
        let server = serve_with(builder, Echo);
        let (client, id, peer) = accepted(&server, &told);
        client.send("hello\n");
        let reason = Refusal::BadProxyHeader;
        assert_eq!(next(&told), Told::Refused { id: Some(id), peer, reason }, "{name}");
        assert_eq!(next_closed(&told, id), CloseReason::BadProxyHeader, "{name}");
    }
}

#[test]
fn a_proxy_that_only_looks_is_closed_and_not_refused() {
    let (observer, told) = teller();
    let builder = ThreadingTcpServer::builder().proxy_protocol(proxies()).observer(observer);
    let server = serve_with(builder, Echo);
    let (client, id, _) = accepted(&server, &told);
    drop(client);
    assert_eq!(next_closed(&told, id), CloseReason::Eof);
}

#[test]
fn a_client_behind_a_proxy_is_refused_as_others_are() {
    let client_ip = CLIENT.parse::<std::net::SocketAddr>().unwrap().ip();
    let denied = |builder: Builder<_, _>| builder.access(Access::open().deny(client_ip));
    let limited = |builder: Builder<_, _>| builder.max_connections_per_peer(1);
    type Set = fn(Builder<transport::Tcp, Threading>) -> Builder<transport::Tcp, Threading>;
    let _: Set = limited;
    for (is_limit, reason, closed) in [
        (false, Refusal::Access, CloseReason::Denied),
        (true, Refusal::PeerLimit, CloseReason::Limit),
    ] {
        let (observer, told) = teller();
        let builder = ThreadingTcpServer::builder().proxy_protocol(proxies()).observer(observer);
        let builder = if is_limit { limited(builder) } else { denied(builder) };
        let server = serve_with(builder, Echo);
        let first = Client::of(&server);
        while !matches!(next(&told), Told::Accepted { .. }) {}
        if is_limit {
            first.send(HEADER);
            assert!(matches!(next(&told), Told::Handshaken { .. }));
        }
        let client = Client::of(&server);
        let (id, _) = next_accepted(&told);
        client.send(HEADER);
        let peer = Address::Tcp(CLIENT.parse().unwrap());
        assert_eq!(next(&told), Told::Refused { id: Some(id), peer, reason });
        assert_eq!(next_closed(&told, id), closed);
    }
}

#[cfg(feature = "tls")]
mod tls {
    use super::*;
    use crate::tls_clients::{ask, connect, server_config};

    #[test]
    fn a_handshake_is_told_before_the_end_of_its_connection() {
        for (name, mixin) in all_mixins() {
            let (observer, told) = teller();
            let builder = TcpServer::builder().mixin(mixin).tls(server_config());
            let server = serve_with(builder.observer(observer), Echo);
            assert!(matches!(next(&told), Told::Listening(_)));
            let mut client = connect(&server);
            assert_eq!(ask(&mut client, "hello"), "hello");
            let (id, peer) = next_accepted(&told);
            let (proxied_by, tls) = (None, Some("TLSv1.3".to_owned()));
            let handshaken = Told::Handshaken { id, peer: peer.clone(), proxied_by, tls };
            assert_eq!(next(&told), handshaken, "{name}");
            crate::tls_clients::end_output(&mut client);
            drop(client);
            // The bytes of the handler, not those of TLS.
            let Told::Closed { received: 6, sent, .. } = next(&told) else { panic!("{name}") };
            assert_eq!(sent, 6, "{name}");
        }
    }

    #[test]
    fn a_failed_handshake_is_refused_and_closed() {
        for (name, mixin) in all_mixins() {
            let (observer, told) = teller();
            let builder = TcpServer::builder().mixin(mixin).tls(server_config());
            let server = serve_with(builder.observer(observer), Echo);
            let (client, id, peer) = accepted(&server, &told);
            client.send("hello\n");
            let reason = Refusal::HandshakeFailed;
            assert_eq!(next(&told), Told::Refused { id: Some(id), peer, reason }, "{name}");
            drop(client);
            assert_eq!(next_closed(&told, id), CloseReason::HandshakeFailed, "{name}");
        }
    }
}
