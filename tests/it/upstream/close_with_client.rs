//! Upstreams that are closed with their client.

use std::io::{BufRead, Read, Write};
use std::net::Shutdown;

use socketserver::*;

use super::{Gateway, on_every_gateway};
use crate::support::clients::{Client, reset};
use crate::support::wait_until;

fn waits_for_the_upstream(_: &mut Connection, upstream: &mut Connection) -> std::io::Result<()> {
    upstream.close_with_client();
    upstream.fill_buf().map(drop)
}

fn wait_until_it_waits(gateway: &Gateway) {
    wait_until("the handler waits", || {
        gateway.server.connections().iter().all(|client| client.activity == Activity::Reading)
    });
}

#[test]
fn a_wait_for_an_upstream_ends_when_the_client_is_gone() {
    on_every_gateway((), waits_for_the_upstream, |gateway| {
        let (client, upstream) = gateway.pair();
        wait_until_it_waits(&gateway);
        match client {
            Client::Tcp(stream) => reset(stream),
            Client::Unix(stream) => drop(stream),
        }
        assert_eq!((&upstream).read(&mut [0]).unwrap(), 0, "{gateway}");
        wait_until("it is counted", || gateway.server.stats().reset == 1);
        gateway.stops_clean();
    });
}

#[test]
fn a_client_that_has_ended_its_input_is_not_gone() {
    on_every_gateway((), waits_for_the_upstream, |gateway| {
        let (client, upstream) = gateway.pair();
        wait_until_it_waits(&gateway);
        match &client {
            Client::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Client::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
        (&upstream).write_all(b"answer").unwrap();
        let mut answer = [0; 6];
        (&client).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"answer", "{gateway}");
        drop(upstream);
        // Both have ended when the relay begins, in any order.
        let relayed = gateway.relayed().unwrap();
        assert_eq!((relayed.sent, relayed.received), (0, 6), "{gateway}");
        gateway.stops_clean();
    });
}
