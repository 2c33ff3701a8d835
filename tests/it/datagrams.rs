//! What a datagram handler and its client can rely on.

mod common;

use std::io::Write;
use std::os::unix::net::UnixDatagram as Socket;
use std::sync::mpsc::Receiver;

use common::{
    PATIENCE, Told, abstract_name, bounded, echoes, next, udp, uninterrupted, unix_address,
    unixgram,
};
use socketserver::services::Echo;
use socketserver::*;

fn answer(client: &std::net::UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = uninterrupted(|| client.recv(&mut buffer));
    buffer[..length].to_vec()
}

/// A handler that does as the datagram says.
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
fn a_datagram_is_answered_by_none_one_or_many() {
    let _bound = bounded();
    for threading in [false, true] {
        let mixin: Box<dyn Spawnable> =
            if threading { Box::new(Threading::new()) } else { Box::new(Sequential) };
        let server = UdpServer::builder().mixin(mixin).bind("127.0.0.1:0", commands).unwrap();
        let server = server.spawn().unwrap();
        let client = udp(server.local_addr());
        client.send(b"collect").unwrap();
        assert_eq!(answer(&client), b"one answer");
        client.send(b"several").unwrap();
        assert_eq!([answer(&client), answer(&client)], [b"first".to_vec(), b"second".to_vec()]);
        assert_eq!(answer(&client), b"", "an empty datagram is a datagram");
        client.send(b"").unwrap();
        assert_eq!(answer(&client), b"0");
        client.send(b"nothing").unwrap();
        // A request for nothing, and one that fails, leave nothing behind in the stream of answers.
        client.send(b"fail").unwrap();
        let report = server.handle();
        common::wait_until("the failure is counted", || report.stats().failed == 1);
        client.send(b"who").unwrap();
        let own = client.local_addr().unwrap();
        let expected = format!("udp://{own} {} 6", server.local_addr());
        assert_eq!(String::from_utf8(answer(&client)).unwrap(), expected);
    }
}

#[test]
fn the_largest_and_the_smallest_datagram_are_echoed() {
    let _bound = bounded();
    let server = ThreadingUdpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let client = udp(server.local_addr());
    let largest: Vec<u8> = (0..65_507u32).map(|n| n as u8).collect();
    client.send(&largest).unwrap();
    assert_eq!(answer(&client), largest);
    client.send(b"").unwrap();
    assert_eq!(answer(&client), b"");
}

#[test]
fn a_datagram_that_is_too_long_is_reported_and_never_passed_on_in_part() {
    let _bound = bounded();
    let (handler, words) = Told::new(Echo);
    let server = UdpServer::builder().max_packet_size(10).bind("127.0.0.1:0", handler).unwrap();
    let server = server.spawn().unwrap();
    let client = udp(server.local_addr());
    client.send(b"0123456789+").unwrap();
    let error = next(&words);
    assert!(error.starts_with("error: datagram of 11 bytes"), "{error}");
    assert!(error.ends_with("(limit 10 bytes)"), "{error}");
    client.send(b"0123456789").unwrap();
    assert_eq!(answer(&client), b"0123456789");
    let stats = server.stats();
    assert_eq!((stats.truncated, stats.accepted), (1, 1));

    let (handler, words) = Told::new(Echo);
    let builder = UnixDatagramServer::builder().max_packet_size(10);
    let server = builder.bind(abstract_name(), handler).unwrap().spawn().unwrap();
    unixgram(server.local_addr()).send(&[0; 100]).unwrap();
    assert!(next(&words).contains("datagram of 100 bytes"));
    echoes(server.local_addr(), "0123456789");
}

fn skip_to_error(words: &Receiver<String>) -> String {
    loop {
        let word = next(words);
        if word.starts_with("error") {
            return word;
        }
    }
}

#[test]
fn a_reply_that_fails_concerns_its_request_alone() {
    let _bound = bounded();
    let (handler, words) = Told::new(datagram_handler_fn(commands));
    let server = UdpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap();
    let client = udp(server.local_addr());
    client.send(b"too long").unwrap();
    assert!(skip_to_error(&words).contains("too long"));
    client.send(b"panic").unwrap();
    assert_eq!(skip_to_error(&words), "error: handler panicked: as told");
    client.send(b"still").unwrap();
    assert_eq!(answer(&client), b"5");
    let handle = server.handle();
    assert!(server.stop(PATIENCE).is_clean());
    let stats = handle.stats();
    assert_eq!((stats.failed, stats.panicked, stats.accepted), (1, 1, 3));
}

#[test]
fn a_peer_without_a_name_cannot_be_answered_and_the_next_can() {
    let _bound = bounded();
    for threading in [false, true] {
        let mixin: Box<dyn Spawnable> =
            if threading { Box::new(Threading::new()) } else { Box::new(Sequential) };
        let (handler, words) = Told::new(Echo);
        let server = UnixDatagramServer::builder().mixin(mixin).bind(abstract_name(), handler);
        let server = server.unwrap().spawn().unwrap();
        let address = Endpoint::from(server.local_addr());
        let name = unix_address(address.unix_name(Scheme::UnixDatagram).unwrap());
        let nameless = Socket::unbound().unwrap();
        nameless.send_to_addr(b"hello?", &name).unwrap();
        assert!(skip_to_error(&words).contains("has no name"));
        echoes(server.local_addr(), "hello");
    }
}

#[test]
fn a_peer_that_has_gone_before_the_answer_stops_nobody() {
    let _bound = bounded();
    let server = UdpServer::bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    for _ in 0..50 {
        let gone = udp(server.local_addr());
        gone.send(b"bye").unwrap();
        drop(gone);
    }
    echoes(server.local_addr(), "still here");
    assert_eq!(server.stats().accept_errors, 0);

    let server = UnixDatagramServer::bind(abstract_name(), Echo).unwrap().spawn().unwrap();
    for _ in 0..5 {
        let gone = unixgram(server.local_addr());
        gone.send(b"bye").unwrap();
        drop(gone);
    }
    echoes(server.local_addr(), "still here");
}

#[test]
fn a_unix_peer_that_does_not_read_holds_up_nobody() {
    let _bound = bounded();
    let (handler, words) = Told::new(datagram_handler_fn(|request| {
        // More than the peer's queue holds (`net.unix.max_dgram_qlen`, or its receive buffer).
        while request.data() == b"flood" {
            request.reply([b'x'; 1000])?;
        }
        Ok(())
    }));
    let server = UnixDatagramServer::bind(abstract_name(), handler).unwrap().spawn().unwrap();
    let deaf = unixgram(server.local_addr());
    for _ in 0..3 {
        deaf.send(b"flood").unwrap();
        assert!(skip_to_error(&words).contains("temporarily unavailable"));
    }
    unixgram(server.local_addr()).send(b"next").unwrap();
    for word in ["setup", "handle", "finish"] {
        assert_eq!(next(&words), word);
    }
}

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
    let _bound = bounded();
    let server = UdpServer::bind("127.0.0.1:0", Only(b"yes")).unwrap().spawn().unwrap();
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
    let _bound = bounded();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = parking_lot::Mutex::new(wait);
    let (handler, words) = Told::new(datagram_handler_fn(move |request| {
        if request.data() == b"first" {
            wait.lock().recv()?;
        }
        Ok(request.reply(request.data())?)
    }));
    let server = UdpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap();
    let client = udp(server.local_addr());
    for text in ["first", "second", "third"] {
        client.send(text.as_bytes()).unwrap();
    }
    assert_eq!([next(&words), next(&words)], ["setup", "handle"]);
    server.shutdown();
    go.send(()).unwrap();
    for text in ["first", "second", "third"] {
        assert_eq!(answer(&client), text.as_bytes());
    }
    server.join().unwrap();
}
