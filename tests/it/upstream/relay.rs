//! What a relay carries, and how it ends when both sides are well.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;

use socketserver::*;

use super::{Gateway, Kind, as_it_is, fill, on_every_gateway, on_gateways, read_exactly};
use crate::mixins::all_mixins;
use crate::support::clients::{line_of, rest_of};
use crate::support::wait_until;

#[test]
fn lines_go_both_ways_until_the_client_ends_and_then_the_upstream() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        for line in ["first", "second"] {
            client.send(format!("{line}\n"));
            assert_eq!(line_of(&upstream), line);
            upstream.send("well\n");
            assert_eq!(line_of(&client), "well");
        }
        client.send("last");
        client.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&upstream), b"last");
        upstream.send("answer");
        drop(upstream);
        assert_eq!(rest_of(&client), b"answer");
        gateway.has_relayed(17, 16, RelayEnd::Client);
        gateway.stops_clean();
    });
}

#[test]
fn when_the_upstream_ends_first_the_client_may_still_send() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        upstream.send("greeting, and no more");
        upstream.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&client), b"greeting, and no more");
        for line in ["one", "two"] {
            client.send(format!("{line}\n"));
            assert_eq!(line_of(&upstream), line);
        }
        drop(client);
        assert_eq!(rest_of(&upstream), b"");
        gateway.has_relayed(8, 21, RelayEnd::Upstream);
        gateway.stops_clean();
    });
}

#[test]
fn what_is_buffered_before_a_relay_goes_first() {
    let prepare = |client: &mut Connection, upstream: &mut Connection| {
        let mut line = String::new();
        client.read_line(&mut line)?;
        assert_eq!(line, "CONNECT\n");
        upstream.read_line(&mut line)?;
        client.write_all(b"to the client ")?;
        upstream.write_all(b"to the upstream ")
    };
    on_every_gateway((), prepare, |gateway| {
        let client = crate::support::clients::Client::of(&gateway.server);
        client.send("CONNECT\npipelined ");
        let upstream = gateway.upstream.accept();
        upstream.send("HELLO\nbehind it ");
        let to_upstream = "to the upstream pipelined ";
        let to_client = "to the client behind it ";
        assert_eq!(read_exactly(&upstream, to_upstream.len()), to_upstream.as_bytes());
        assert_eq!(read_exactly(&client, to_client.len()), to_client.as_bytes());
        client.send("more");
        client.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&upstream), b"more");
        drop(upstream);
        assert_eq!(rest_of(&client), b"");
        // What the handler has read and written itself does not count.
        gateway.has_relayed(14, 10, RelayEnd::Client);
        gateway.stops_clean();
    });
}

#[test]
fn a_client_that_is_gone_before_the_relay_is_an_end_as_any() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        client.send("bye");
        drop(client);
        assert_eq!(rest_of(&upstream), b"bye");
        drop(upstream);
        gateway.has_relayed(3, 0, RelayEnd::Client);
        gateway.stops_clean();
    });
}

/// Neither side reads before it has written everything, which the gateway holds back: no deadlock.
#[test]
fn both_sides_may_be_full() {
    on_every_gateway((), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        let (sent, received) = (fill(&client), fill(&upstream));
        assert!(sent > 64 * 1024 && received > 64 * 1024, "{sent}, {received}");
        thread::scope(|scope| {
            for (reader, expected) in [(&client, received), (&upstream, sent)] {
                scope.spawn(move || {
                    reader.shutdown(Shutdown::Write);
                    let rest = rest_of(reader);
                    assert!(rest.len() == expected && rest.iter().all(|byte| *byte == b'x'));
                });
            }
        });
        drop((client, upstream));
        let relayed = gateway.relayed().unwrap();
        assert_eq!((relayed.sent, relayed.received), (sent as u64, received as u64), "{gateway}");
        gateway.stops_clean();
    });
}

/// Splicing stops at an urgent mark, where reading goes on.
#[test]
fn urgent_data_in_bulk_does_not_stop_a_relay() {
    const PART: usize = 1024 * 1024;
    on_gateways([Kind::Tcp; 2], &(), as_it_is, |gateway| {
        let (client, upstream) = gateway.pair();
        let crate::support::clients::Client::Tcp(stream) = &client else { panic!() };
        thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..4 {
                    client.send(vec![b'x'; PART]);
                    let urgent = socket2::SockRef::from(stream).send_out_of_band(b"!");
                    assert_eq!(urgent.unwrap(), 1);
                }
                client.send(vec![b'x'; PART]);
                client.shutdown(Shutdown::Write);
            });
            let rest = rest_of(&upstream);
            // The urgent bytes are not in the stream, except those that a later mark has replaced.
            let urgent = rest.iter().filter(|byte| **byte == b'!').count();
            assert_eq!(rest.len() - urgent, 5 * PART, "{gateway}");
        });
        drop(upstream);
        gateway.relayed().unwrap();
        gateway.stops_clean();
    });
}

/// Messages of a broadcast come whole between the pieces that are relayed.
#[test]
fn a_member_of_a_broadcast_may_be_relayed() {
    const LENGTH: usize = 16 * 1024 * 1024;
    const MESSAGE: &[u8] =
        b"[a message of a hundred bytes, all of which have to come together, though \
        the rest is cut anywhere....]";
    for kinds in [[Kind::Tcp; 2], [Kind::Unix, Kind::Tcp]] {
        for mixin in all_mixins() {
            let broadcast = Arc::new(Broadcast::new());
            let joined = Arc::new(parking_lot::Mutex::new(None));
            let (room, member) = (broadcast.clone(), joined.clone());
            let gateway = Gateway::new(mixin, kinds, &(), move |client, _| {
                *member.lock() = Some(room.join(client));
                Ok(())
            });
            let (client, upstream) = gateway.pair();
            wait_until("the client has joined", || joined.lock().is_some());
            let is_done = std::sync::atomic::AtomicBool::new(false);
            let (mut relayed, mut messages) = (0, 0);
            thread::scope(|scope| {
                scope.spawn(|| {
                    (&upstream).write_all(&vec![b'x'; LENGTH]).unwrap();
                });
                scope.spawn(|| {
                    while !is_done.load(std::sync::atomic::Ordering::SeqCst) {
                        broadcast.send(MESSAGE);
                        thread::sleep(std::time::Duration::from_micros(200));
                    }
                });
                let mut byte_stream = std::io::BufReader::new(&client);
                let mut byte = [0];
                // Some messages wait until there is nothing else to carry.
                while relayed < LENGTH || messages == 0 {
                    byte_stream.read_exact(&mut byte).unwrap();
                    if byte == *b"x" {
                        relayed += 1;
                    } else {
                        let mut message = vec![0; MESSAGE.len()];
                        message[0] = byte[0];
                        byte_stream.read_exact(&mut message[1..]).unwrap();
                        assert_eq!(message, MESSAGE, "{gateway}");
                        messages += 1;
                    }
                }
                is_done.store(true, std::sync::atomic::Ordering::SeqCst);
            });
            joined.lock().take();
            drop((client, upstream));
            let _ = gateway.relayed();
            gateway.stops_clean();
        }
    }
}
