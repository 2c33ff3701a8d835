//! How a relay ends when a side is not well: reset, silent, or not reading.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::*;

use super::{Kind, SHORT, as_it_is, fill, on_every_gateway, on_gateways, read_exactly};
use crate::support::clients::{Client, line_of, reset, rest_of};
use crate::support::close_reasons::Limits;
use crate::support::wait_until;

/// Reads to the end; returns what came, and whether it ended by a reset.
#[track_caller]
fn read_until_reset(mut stream: &Client) -> (Vec<u8>, bool) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, false),
            Ok(length) => all.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (all, true),
            Err(error) => panic!("{error}"),
        }
    }
}

fn reset_client(client: Client) {
    match client {
        Client::Tcp(stream) => reset(stream),
        Client::Unix(_) => panic!("a Unix socket has no RST"),
    }
}

#[test]
fn a_reset_of_either_side_reaches_the_other() {
    on_gateways([Kind::Tcp; 2], &(), as_it_is, |gateway| {
        for is_client in [true, false] {
            let (client, upstream) = gateway.pair();
            client.send("hello\n");
            assert_eq!(line_of(&upstream), "hello");
            upstream.send("welcome\n");
            let (resets, other) = if is_client { (client, upstream) } else { (upstream, client) };
            if is_client {
                assert_eq!(line_of(&resets), "welcome");
            }
            reset_client(resets);
            let (rest, is_reset) = read_until_reset(&other);
            assert!(is_reset, "{gateway}: client {is_client}, {rest:?}");
            let error = gateway.relayed().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{gateway}");
        }
        gateway.stops_clean();
    });
}

/// The whole answer of an upstream reaches the client, though the upstream is closed with unread input,
/// as a server does that refuses a long request by its first bytes.
#[test]
fn an_answer_before_a_reset_is_not_lost() {
    // It fits into the buffers of sockets: what is not acknowledged yet is lost with its sender.
    const ANSWER: usize = 30_000;
    on_gateways([Kind::Tcp; 2], &(), as_it_is, |gateway| {
        for _ in 0..5 {
            let (client, upstream) = gateway.pair();
            thread::scope(|scope| {
                scope.spawn(|| {
                    // Fails when the gateway gives up.
                    while (&client).write(&[b'x'; 8192]).is_ok() {}
                });
                read_exactly(&upstream, 100_000);
                upstream.send(vec![b'y'; ANSWER]);
                // Until it is acknowledged.
                thread::sleep(SHORT);
                drop(upstream);
                // The client reads later than the gateway, which has to hold the answer.
                thread::sleep(SHORT);
                let (answer, _) = read_until_reset(&client);
                assert_eq!(answer.len(), ANSWER, "{gateway}");
            });
            drop(client);
            let _ = gateway.relayed();
        }
        gateway.stops_clean();
    });
}

#[test]
fn a_silent_pair_ends_after_the_idle_timeout_or_else_the_read_timeout() {
    for [idle, read] in [[Some(SHORT), None], [None, Some(SHORT)], [Some(SHORT), Some(2 * SHORT)]] {
        on_every_gateway(Limits { idle, read, ..Limits::default() }, as_it_is, |gateway| {
            let begin = Instant::now();
            let (client, upstream) = gateway.pair();
            let error = gateway.relayed().unwrap_err();
            assert!(begin.elapsed() >= SHORT, "{gateway}: {:?}", begin.elapsed());
            match Error::of(&error) {
                Some(Error::IdleTimeout { limit: SHORT, .. }) if idle.is_some() => {}
                Some(Error::ReadTimeout { limit: SHORT, .. }) if idle.is_none() => {}
                _ => panic!("{gateway}: {error:?}"),
            }
            assert_eq!((rest_of(&upstream).len(), rest_of(&client).len()), (0, 0));
            drop((client, upstream));
            gateway.stops_clean();
        });
    }
}

#[test]
fn a_byte_in_either_direction_begins_the_idle_timeout_anew() {
    // Long enough for a machine that is busy with other tests.
    const IDLE: Duration = Duration::from_secs(3);
    let limits = Limits { idle: Some(IDLE), ..Limits::default() };
    on_gateways([Kind::Tcp; 2], &limits, as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        let begin = Instant::now();
        for (drips, other) in [(&client, &upstream), (&upstream, &client)] {
            for _ in 0..5 {
                thread::sleep(IDLE / 4);
                drips.send("x");
                assert_eq!(read_exactly(other, 1), b"x", "{gateway}");
            }
        }
        let error = gateway.relayed().unwrap_err();
        assert!(begin.elapsed() >= 3 * IDLE, "{gateway}: {:?}", begin.elapsed());
        assert!(matches!(Error::of(&error), Some(Error::IdleTimeout { .. })), "{error}");
        drop((client, upstream));
        gateway.stops_clean();
    });
}

#[test]
fn a_side_that_takes_nothing_of_what_it_is_owed_ends_the_relay_after_the_write_timeout() {
    let limits = Limits { write: Some(4 * SHORT), ..Limits::default() };
    on_every_gateway(limits, as_it_is, |gateway| {
        for is_client in [true, false] {
            let (client, upstream) = gateway.pair();
            let (sends, begin) = (if is_client { &client } else { &upstream }, Instant::now());
            // While the other side sends, so that the pair is not idle.
            fill(sends);
            let error = gateway.relayed().unwrap_err();
            assert!(begin.elapsed() >= 4 * SHORT, "{gateway}: {:?}", begin.elapsed());
            assert!(
                matches!(Error::of(&error), Some(Error::WriteTimeout { limit, .. }) if *limit == 4 * SHORT),
                "{gateway}: {error:?}"
            );
        }
        gateway.stops_clean();
    });
}

#[test]
fn a_slow_reader_that_goes_on_reading_is_within_the_write_timeout() {
    const WRITE: Duration = Duration::from_secs(2);
    let limits = Limits { write: Some(WRITE), ..Limits::default() };
    for kind in [Kind::Tcp, Kind::Unix] {
        on_gateways([kind; 2], &limits, as_it_is, |gateway| {
            let (client, upstream) = gateway.pair();
            let sent = fill(&client);
            client.shutdown(Shutdown::Write);
            let (begin, mut read) = (Instant::now(), 0);
            while begin.elapsed() < WRITE + WRITE / 4 && read < sent {
                thread::sleep(SHORT);
                // Acknowledgements come in jumps of up to some megabytes.
                read += read_exactly(&upstream, (sent - read).min(sent / 30)).len();
            }
            assert_eq!(read + rest_of(&upstream).len(), sent, "{gateway}");
            drop(upstream);
            gateway.relayed().unwrap();
            gateway.stops_clean();
        });
    }
}

#[test]
fn disconnecting_a_client_cuts_both_sides_off() {
    on_every_gateway((), as_it_is, |gateway| {
        // One thread serves: it is the handler's.
        let (client, upstream) = gateway.pair();
        client.send("hello\n");
        assert_eq!(line_of(&upstream), "hello");
        let handle = gateway.server.handle();
        let connections = handle.connections();
        assert!(handle.disconnect(connections[0].id));
        assert_eq!((rest_of(&upstream).len(), rest_of(&client).len()), (0, 0), "{gateway}");
        let _ = gateway.relayed();
        wait_until("the request has ended", || handle.stats().active == 0);
        gateway.stops_clean();
    });
}

#[test]
fn a_relay_is_listed_with_its_upstream_and_as_reading_or_writing() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        let handle = gateway.server.handle();
        let info = || handle.connections().into_iter().next().unwrap();
        wait_until("it waits for input", || info().activity == Activity::Reading);
        let address = info().upstreams[0].to_string();
        assert_eq!((info().upstreams.len(), address), (1, gateway.upstream.address()));
        fill(&client);
        wait_until("it waits for room", || info().activity != Activity::Running);
        drop(upstream);
        let _ = gateway.relayed();
        drop(client);
        wait_until("the request has ended", || handle.connections().is_empty());
        gateway.stops_clean();
    });
}

#[test]
fn a_client_that_vanishes_from_a_full_relay_is_noticed() {
    // Its kernel answers with RST.
    let limits = Limits { write: Some(Duration::from_secs(20)), ..Limits::default() };
    on_every_gateway(limits, as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        fill(&upstream);
        drop(client);
        let error = gateway.relayed().unwrap_err();
        assert!(Error::is_disconnect(&error), "{gateway}: {error:?}");
        drop(upstream);
        gateway.stops_clean();
    });
}
