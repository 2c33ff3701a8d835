//! What a datagram handler and its client can rely on.

use std::io::Write;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc;

use parking_lot::Mutex;
use socket2::SockRef;
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{datagram_of, echoes, udp, unix_address, unixgram};
use crate::support::recorder::{Recorder, expect_calls, next_error};
use crate::support::servers::{both_mixins, serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name, next, wait_until};

fn answer(client: &UdpSocket) -> Vec<u8> {
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
fn a_unix_datagram_of_any_length_is_received() {
    for mixin in both_mixins() {
        let builder = UnixDatagramServer::builder().mixin(mixin);
        let server = serve_at(&abstract_name(), builder, commands);
        let client = unixgram(server.local_addr());
        SockRef::from(&client).set_send_buffer_size(1 << 20).unwrap();
        let most = SockRef::from(&client).send_buffer_size().unwrap() - 32;
        for length in [0, 65_536, 100_000, most] {
            client.send(&vec![b'x'; length]).unwrap();
            let answer = datagram_of(|buffer| client.recv(buffer));
            assert_eq!(answer, length.to_string().as_bytes());
        }
    }
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
    // Only Linux tells the length of what was longer than the buffer.
    let portable = !cfg!(all(target_os = "linux", not(socketserver_portable)));
    let reported = if portable { "datagram of 11 bytes" } else { "datagram of 100 bytes" };
    assert!(next(&calls).to_string().contains(reported));
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

/// Answers with the address that the datagram was sent to.
fn local_addr(request: &mut DatagramRequest) -> HandlerResult {
    Ok(request.reply(request.local_addr().to_string())?)
}

#[test]
fn a_reply_leaves_from_the_address_that_the_datagram_was_sent_to() {
    let answers = |server: &RunningServer, hosts: &[&str]| {
        let port = server.local_addr().port().unwrap();
        for host in hosts {
            // A connected socket takes no datagram from another address.
            let client = udp((*host, port));
            client.send(b"where?").unwrap();
            let expected = Endpoint::from((*host, port)).to_string();
            assert_eq!(String::from_utf8(answer(&client)).unwrap(), format!("udp://{expected}"));
        }
    };
    for mixin in both_mixins() {
        let server = serve_at("0.0.0.0:0", UdpServer::builder().mixin(mixin), local_addr);
        answers(&server, &["127.0.0.1", "127.0.0.2", "127.1.2.3"]);
    }
    for mixin in both_mixins() {
        let builder = UdpServer::builder().mixin(mixin).dual_stack(true);
        let server = serve_at("[::]:0", builder, local_addr);
        answers(&server, &["::1", "127.0.0.1", "127.0.0.2"]);
    }
    let server = serve_at("[::]:0", UdpServer::builder(), local_addr);
    answers(&server, &["::1"]);
    // A socket that was bound elsewhere.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let server = ThreadingUdpServer::from_socket(socket, local_addr).unwrap().spawn().unwrap();
    answers(&server, &["127.0.0.2"]);
    // One that is bound to one address.
    let server = serve_at("127.0.0.2:0", UdpServer::builder(), local_addr);
    answers(&server, &["127.0.0.2"]);
}

#[test]
fn a_reply_to_a_broadcast_leaves_from_the_address_of_the_interface() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        let builder = UdpServer::builder().dual_stack(true);
        let server = serve_at(address, builder, local_addr);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(TIMEOUT)).unwrap();
        client.set_broadcast(true).unwrap();
        let port = server.local_addr().port().unwrap();
        client.send_to(b"where?", ("127.255.255.255", port)).unwrap();
        let here = format!("udp://127.0.0.1:{port}");
        assert_eq!(answer(&client), here.as_bytes());
    }
}

#[test]
fn a_datagram_that_is_too_long_for_a_server_on_all_addresses_is_reported_and_not_handled() {
    let (handler, calls) = Recorder::new(Echo);
    let server = serve_at("0.0.0.0:0", UdpServer::builder().max_packet_size(10), handler);
    let client = udp(("127.0.0.2", server.local_addr().port().unwrap()));
    client.send(b"0123456789+").unwrap();
    assert!(next(&calls).to_string().starts_with("error: datagram of 11 bytes"));
    for text in [&b"0123456789"[..], b""] {
        client.send(text).unwrap();
        assert_eq!(answer(&client), text);
    }
}
