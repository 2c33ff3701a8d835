//! What a datagram handler and its client can rely on.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;

use parking_lot::Mutex;
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{datagram_of, echoes, udp, unix_address, unixgram};
use crate::support::recorder::{Recorder, expect_calls, next_error};
use crate::support::servers::{both_mixins, serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name, next, wait_until};

fn answer(client: &std::net::UdpSocket) -> Vec<u8> {
    datagram_of(|buffer| client.recv(buffer))
}

/// A handler that does what the datagram says.
fn commands(request: &mut DatagramRequest) -> HandlerResult {
    match request.data() {
        b"nothing" => {}
        b"collect" => {
            request.write_all(b"one ")?;
            request.write_all(b"answer")?;
        }
        b"several" => {
            for reply in ["first", "second", ""] {
                request.reply(reply)?;
            }
        }
        b"fail" => {
            request.write_all(b"never sent")?;
            return Err("as told".into());
        }
        b"panic" => panic!("as told"),
        b"too long" => request.reply(vec![0; 65_536])?,
        b"who" => {
            let (peer, here) = (request.peer_addr().clone(), request.local_addr().clone());
            write!(request, "{peer} {here} {}", request.id())?;
        }
        other => {
            let length = other.len();
            write!(request, "{length}")?;
        }
    }
    Ok(())
}

#[test]
fn a_datagram_may_have_any_number_of_replies() {
    for mixin in both_mixins() {
        let server = serve_with(UdpServer::builder().mixin(mixin), commands);
        let client = udp(server.local_addr());
        client.send(b"collect").unwrap();
        assert_eq!(answer(&client), b"one answer");
        client.send(b"several").unwrap();
        assert_eq!([answer(&client), answer(&client)], [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(answer(&client), b"", "an empty datagram is a datagram");
        client.send(b"").unwrap();
        assert_eq!(answer(&client), b"0");
        client.send(b"nothing").unwrap();
        // Neither a request without a reply nor one that fails sends anything.
        client.send(b"fail").unwrap();
        wait_until("the failure is counted", || server.stats().failed == 1);
        client.send(b"who").unwrap();
        let own = client.local_addr().unwrap();
        let expected = format!("udp://{own} {} 6", server.local_addr());
        assert_eq!(String::from_utf8(answer(&client)).unwrap(), expected);
    }
}

#[test]
fn the_largest_and_the_smallest_datagram_are_echoed() {
    let server = serve_with(ThreadingUdpServer::builder(), Echo);
    let client = udp(server.local_addr());
    let largest: Vec<u8> = (0..65_507u32).map(|n| n as u8).collect();
    client.send(&largest).unwrap();
    assert_eq!(answer(&client), largest);
    client.send(b"").unwrap();
    assert_eq!(answer(&client), b"");
}

#[test]
fn a_datagram_that_is_too_long_is_reported_and_not_handled() {
    let (handler, calls) = Recorder::new(Echo);
    let server = serve_with(UdpServer::builder().max_packet_size(10), handler);
    let client = udp(server.local_addr());
    client.send(b"0123456789+").unwrap();
    let error = next(&calls).to_string();
    assert!(error.starts_with("error: datagram of 11 bytes"), "{error}");
    assert!(error.ends_with("(limit 10 bytes)"), "{error}");
    client.send(b"0123456789").unwrap();
    assert_eq!(answer(&client), b"0123456789");
    let stats = server.stats();
    assert_eq!((stats.truncated, stats.accepted), (1, 1));

    let (handler, calls) = Recorder::new(Echo);
    let builder = UnixDatagramServer::builder().max_packet_size(10);
    let server = serve_at(&abstract_name(), builder, handler);
    unixgram(server.local_addr()).send(&[0; 100]).unwrap();
    assert!(next(&calls).to_string().contains("datagram of 100 bytes"));
    echoes(server.local_addr(), "0123456789");
}

#[test]
fn a_reply_that_fails_ends_only_its_request() {
    let (handler, calls) = Recorder::new(datagram_handler_fn(commands));
    let server = serve_with(UdpServer::builder(), handler);
    let client = udp(server.local_addr());
    client.send(b"too long").unwrap();
    assert!(next_error(&calls).contains("too long"));
    client.send(b"panic").unwrap();
    assert_eq!(next_error(&calls), "handler panicked: as told");
    client.send(b"still").unwrap();
    assert_eq!(answer(&client), b"5");
    let handle = server.handle();
    assert!(server.stop(TIMEOUT).is_clean());
    let stats = handle.stats();
    assert_eq!((stats.failed, stats.panicked, stats.accepted), (1, 1, 3));
}

#[test]
fn a_unix_peer_without_a_name_gets_no_reply_and_the_next_peer_does() {
    for mixin in both_mixins() {
        let (handler, calls) = Recorder::new(Echo);
        let builder = UnixDatagramServer::builder().mixin(mixin);
        let server = serve_at(&abstract_name(), builder, handler);
        let address = Endpoint::from(server.local_addr());
        let name = unix_address(address.unix_name(Scheme::UnixDatagram).unwrap());
        let nameless = UnixDatagram::unbound().unwrap();
        nameless.send_to_addr(b"hello?", &name).unwrap();
        assert!(next_error(&calls).contains("has no name"));
        echoes(server.local_addr(), "hello");
    }
}

#[test]
fn a_peer_that_has_closed_before_the_reply_harms_no_other() {
    let server = serve_with(UdpServer::builder(), Echo);
    for _ in 0..50 {
        let gone = udp(server.local_addr());
        gone.send(b"bye").unwrap();
        drop(gone);
    }
    echoes(server.local_addr(), "still here");
    assert_eq!(server.stats().accept_errors, 0);

    let server = serve_at(&abstract_name(), UnixDatagramServer::builder(), Echo);
    for _ in 0..5 {
        let gone = unixgram(server.local_addr());
        gone.send(b"bye").unwrap();
        drop(gone);
    }
    echoes(server.local_addr(), "still here");
}

#[test]
fn a_unix_peer_that_does_not_read_delays_no_other() {
    let (handler, calls) = Recorder::new(datagram_handler_fn(|request| {
        // More than the peer's queue holds (`net.unix.max_dgram_qlen`, or its receive buffer).
        while request.data() == b"flood" {
            request.reply([b'x'; 1000])?;
        }
        Ok(())
    }));
    let server = serve_at(&abstract_name(), UnixDatagramServer::builder(), handler);
    let slow = unixgram(server.local_addr());
    for _ in 0..3 {
        slow.send(b"flood").unwrap();
        assert!(next_error(&calls).contains("temporarily unavailable"));
    }
    unixgram(server.local_addr()).send(b"next").unwrap();
    expect_calls(&calls, &["setup", "handle", "finish"]);
}

/// Handles datagrams with this content only.
struct Only(&'static [u8]);

impl DatagramRequestHandler for Only {
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        assert_ne!(request.data(), b"panic", "as told");
        request.data() == self.0
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        Ok(request.reply(request.data())?)
    }
}

#[test]
fn a_datagram_that_verify_request_refuses_is_dropped() {
    let server = serve_with(UdpServer::builder(), Only(b"yes"));
    let client = udp(server.local_addr());
    for text in ["no", "panic", "yes"] {
        client.send(text.as_bytes()).unwrap();
    }
    assert_eq!(answer(&client), b"yes");
    let stats = server.stats();
    assert_eq!((stats.denied, stats.accepted), (2, 1));
}

#[test]
fn datagrams_that_arrived_before_a_stop_are_answered() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let (handler, calls) = Recorder::new(datagram_handler_fn(move |request| {
        if request.data() == b"first" {
            wait.lock().recv()?;
        }
        Ok(request.reply(request.data())?)
    }));
    let server = serve_with(UdpServer::builder(), handler);
    let client = udp(server.local_addr());
    for text in ["first", "second", "third"] {
        client.send(text.as_bytes()).unwrap();
    }
    expect_calls(&calls, &["setup", "handle"]);
    server.shutdown();
    go.send(()).unwrap();
    for text in ["first", "second", "third"] {
        assert_eq!(answer(&client), text.as_bytes());
    }
    server.join().unwrap();
}
