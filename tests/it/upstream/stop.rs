//! A stop, whatever a handler does with its upstream: in time, and with the right report.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::*;

use super::connect::full_backlog;
use super::{Gateway, KINDS, as_it_is, fill, on_every_gateway, read_exactly};
use crate::mixins::all_mixins;
use crate::support::clients::{Client, line_of, read_until_closed, rest_of, tcp};
use crate::support::servers::serve_with;
use crate::support::{TIMEOUT, wait_until};

/// How long the stops may take here that have to force something.
const STOP: Duration = Duration::from_millis(1500);

/// Stops a server that has to force its one request. Other programs may keep this one from the processor
/// for longer than the last 300 ms of a stop: then the request is found stuck, and another server is
/// tried. One that does not notice is stuck each time.
fn is_forced(name: &str, server: impl Fn() -> (RunningServer, Vec<Client>)) {
    for tries_left in (0..8).rev() {
        let (server, clients) = server();
        let (handle, begin) = (server.handle(), Instant::now());
        let report = server.stop(STOP);
        let time = begin.elapsed();
        drop(clients);
        assert_eq!(handle.stats().panicked, 0, "{name}");
        let is_right = (report.drained, report.forced, report.stuck.len()) == (0, 1, 0);
        if is_right && time < STOP + STOP / 4 {
            return;
        }
        assert!(tries_left > 0, "{name}: {report:?} after {time:?}");
    }
}

/// The same of a gateway of each kind, whose client and upstream do this before.
fn are_forced(before: impl Fn(&Client, &Client) + Sync) {
    on_every_gateway((), as_it_is, |gateway| {
        let first = std::cell::Cell::new(Some(gateway));
        let (name, mixin, kinds) = {
            let gateway = first.take().unwrap();
            let all = (gateway.to_string(), gateway.mixin, gateway.kinds);
            first.set(Some(gateway));
            all
        };
        is_forced(&name, || {
            let gateway = first.take().unwrap_or_else(|| {
                let again = all_mixins().into_iter().find(|(name, _)| *name == mixin).unwrap();
                Gateway::new(again, kinds, &(), as_it_is)
            });
            let (client, upstream) = gateway.pair();
            before(&client, &upstream);
            (gateway.server, vec![client, upstream])
        });
    });
}

#[track_caller]
fn is_drained(report: &StopReport, name: &str) {
    assert!(report.is_clean() && report.drained == 1, "{name}: {report:?}");
}

#[test]
fn a_request_that_was_received_is_relayed_and_answered_after_a_stop_has_begun() {
    on_every_gateway((), as_it_is, |gateway| {
        let name = gateway.to_string();
        let (client, upstream) = gateway.pair();
        client.send("first\n");
        assert_eq!(line_of(&upstream), "first");
        client.send("question\n");
        let server = gateway.server;
        thread::scope(|scope| {
            let stop = scope.spawn(|| server.stop(TIMEOUT));
            assert_eq!(line_of(&upstream), "question");
            // The client's input has ended.
            assert_eq!(rest_of(&upstream), b"");
            thread::sleep(Duration::from_millis(200));
            upstream.send("answer\n");
            drop(upstream);
            assert_eq!(rest_of(&client), b"answer\n", "{name}");
            drop(client);
            is_drained(&stop.join().unwrap(), &name);
        });
    });
}

#[test]
fn a_stop_ends_an_idle_relay_whose_upstream_ends_with_its_client() {
    on_every_gateway((), as_it_is, |gateway| {
        let name = gateway.to_string();
        let (client, upstream) = gateway.pair();
        client.send("hello\n");
        assert_eq!(line_of(&upstream), "hello");
        let server = gateway.server;
        thread::scope(|scope| {
            let stop = scope.spawn(|| server.stop(TIMEOUT));
            assert_eq!(rest_of(&upstream), b"");
            drop(upstream);
            assert_eq!(rest_of(&client), b"");
            is_drained(&stop.join().unwrap(), &name);
        });
    });
}

#[test]
fn a_stop_forces_an_idle_relay_whose_upstream_goes_on() {
    are_forced(|client, upstream| {
        client.send("hello\n");
        assert_eq!(line_of(upstream), "hello");
    });
}

#[test]
fn a_stop_forces_a_relay_with_a_side_that_takes_nothing() {
    for is_client in [true, false] {
        are_forced(|client, upstream| _ = fill(if is_client { client } else { upstream }));
    }
}

#[test]
fn a_stop_forces_a_relay_with_both_sides_full() {
    are_forced(|client, upstream| {
        fill(client);
        fill(upstream);
    });
}

#[test]
fn a_stop_ends_a_half_closed_relay() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        upstream.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&client), b"");
        let name = gateway.to_string();
        is_drained(&gateway.server.stop(TIMEOUT), &name);
        assert_eq!(rest_of(&upstream), b"");
    });
    are_forced(|client, mut upstream| {
        client.shutdown(Shutdown::Write);
        assert_eq!(upstream.read(&mut [0]).unwrap(), 0);
    });
}

/// The relay never blocks, so that the thread of a sequential server has no wait in which to notice.
#[test]
fn a_stop_forces_a_relay_that_has_always_something_to_carry() {
    are_forced(|client, upstream| {
        let (mut reads, mut writes) = (client.file(), upstream.file());
        thread::spawn(move || while writes.write(&[b'x'; 65_536]).is_ok() {});
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while reads.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        thread::sleep(Duration::from_millis(50));
    });
}

/// A client that floods is relayed up to what it had sent when the stop began.
#[test]
fn a_stop_ends_a_relay_whose_client_floods() {
    on_every_gateway((), as_it_is, |gateway| {
        let name = gateway.to_string();
        let (client, upstream) = gateway.pair();
        thread::scope(|scope| {
            scope.spawn(|| while (&client).write(&[b'x'; 65_536]).is_ok() {});
            let stop = scope.spawn(|| {
                read_exactly(&upstream, 1_000_000);
                gateway.server.stop(TIMEOUT)
            });
            read_until_closed(&upstream);
            upstream.shutdown(Shutdown::Both);
            is_drained(&stop.join().unwrap(), &name);
        });
    });
}

#[test]
fn a_stop_forces_what_is_connecting() {
    for kind in KINDS {
        let (_listener, _waiting, address) = full_backlog(kind);
        for (name, _) in all_mixins() {
            is_forced(name, || {
                let address = address.clone();
                let handler = handler_fn(move |client| {
                    let error = client.connect(&*address, TIMEOUT).unwrap_err();
                    assert!(matches!(error, Error::Stopped), "{error:?}");
                    Ok(())
                });
                let mixin = all_mixins().into_iter().find(|mixin| mixin.0 == name).unwrap().1;
                let server = serve_with(TcpServer::builder().mixin(mixin), handler);
                let client = Client::Tcp(tcp(server.local_addr()));
                wait_until("it connects", || {
                    let connections = server.handle().connections();
                    connections.iter().any(|info| info.activity == Activity::Connecting)
                });
                (server, vec![client])
            });
        }
    }
}

/// The request in progress needs its upstream, so that a stop lets it connect.
#[test]
fn a_handler_may_connect_after_a_stop_has_begun() {
    let upstream = super::Listener::new(super::Kind::Tcp);
    for (name, mixin) in all_mixins() {
        let address = upstream.address();
        let handler = handler_fn(move |client| {
            let mut line = String::new();
            client.read_line(&mut line)?;
            // Waits for the stop.
            assert_eq!(client.read_line(&mut String::new())?, 0);
            let mut upstream = client.connect(&*address, TIMEOUT)?;
            upstream.write_all(line.as_bytes())?;
            client.relay(&mut upstream)?;
            Ok(())
        });
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let client = tcp(server.local_addr());
        (&client).write_all(b"question\n").unwrap();
        wait_until("the handler waits", || {
            server.handle().connections().iter().any(|info| info.activity == Activity::Reading)
        });
        thread::scope(|scope| {
            let stop = scope.spawn(|| server.stop(TIMEOUT));
            let upstream = upstream.accept();
            assert_eq!(rest_of(&upstream), b"question\n");
            upstream.send("answer\n");
            drop(upstream);
            assert_eq!(rest_of(&client), b"answer\n", "{name}");
            is_drained(&stop.join().unwrap(), name);
        });
    }
}
