//! Settings as large and as small as their types allow: the nearest that the system can do is used.

use std::time::Duration;

use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::*;

use crate::support::abstract_name;
use crate::support::clients::echoes;
use crate::support::servers::{Settings, both_mixins, serve_at};

/// Everything that is a time, a number or a size.
struct Largest;

impl Settings for Largest {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        let time = Duration::MAX;
        builder
            .backlog(u32::MAX)
            .keepalive(Keepalive { idle: time, interval: time, probes: u32::MAX })
            .user_timeout(time)
            .max_connections(usize::MAX)
            .max_connections_per_peer(usize::MAX)
            .connection_rate(ConnectionRate { connections: 1, per: time })
            .read_timeout(time)
            .idle_timeout(time)
            .message_timeout(time)
            .min_rate(MinRate { bytes_per_second: u32::MAX, grace: time })
            .write_timeout(time)
            .request_timeout(time)
            .stop_timeout(time)
            .max_line_length(usize::MAX)
            .max_packet_size(usize::MAX)
            .service_actions(time, || ())
    }
}

/// The smallest, as far as a server with them can serve a client at all.
struct Smallest;

impl Settings for Smallest {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        let time = Duration::from_nanos(1);
        builder
            .backlog(0)
            .keepalive(Keepalive { idle: time, interval: time, probes: 0 })
            .max_connections(0)
            .max_connections_per_peer(0)
            .connection_rate(ConnectionRate { connections: u32::MAX, per: time })
            .min_rate(MinRate { bytes_per_second: 0, grace: time })
            .service_actions(time, || ())
    }
}

fn serves(settings: impl Settings) {
    for mixin in both_mixins() {
        let builder = settings.apply(TcpServer::builder().mixin(mixin));
        echoes(serve_at("127.0.0.1:0", builder, Echo).local_addr(), "tcp\n");
    }
    for mixin in both_mixins() {
        let builder = settings.apply(UnixStreamServer::builder().mixin(mixin));
        let server = serve_at(&format!("unix:{}", abstract_name()), builder, Echo);
        echoes(server.local_addr(), "unix\n");
    }
    for mixin in both_mixins() {
        let builder = settings.apply(UdpServer::builder().mixin(mixin));
        echoes(serve_at("127.0.0.1:0", builder, Echo).local_addr(), "udp");
    }
    for mixin in both_mixins() {
        let builder = settings.apply(UnixDatagramServer::builder().mixin(mixin));
        let server = serve_at(&format!("unixgram:{}", abstract_name()), builder, Echo);
        echoes(server.local_addr(), "unixgram");
    }
}

#[test]
fn a_server_with_the_largest_settings_serves() {
    serves(Largest);
}

#[test]
fn a_server_with_the_smallest_settings_serves() {
    serves(Smallest);
}

#[test]
fn an_idle_time_of_any_length_is_one() {
    for time in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let mixin = Threading::new().idle_time(time);
        let builder = ThreadingTcpServer::builder().mixin(mixin);
        let server = serve_at("127.0.0.1:0", builder, Echo);
        for _ in 0..3 {
            echoes(server.local_addr(), "again\n");
        }
    }
}
