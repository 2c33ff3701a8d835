//! TCP urgent data. A read, and what the kernel says about unread input, ends at the urgent mark; the
//! urgent byte itself is not a part of the stream.

use std::net::TcpStream;

use socket2::SockRef;
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{line_of, tcp};
use crate::support::servers::{both_mixins, serve_with};
use crate::support::{Gate, TIMEOUT, wait_until};

/// A client that has sent a line, an urgent byte and a line before its handler reads.
fn has_sent_urgent_data(server: &RunningServer, gate: &Gate) -> TcpStream {
    let client = tcp(server.local_addr());
    let socket = SockRef::from(&client);
    socket.send(b"one\n").unwrap();
    socket.send_out_of_band(b"!").unwrap();
    socket.send(b"two\n").unwrap();
    wait_until("it is served", || server.stats().active == 1);
    assert!(!gate.is_open());
    client
}

fn answers_both_lines(stop: bool) {
    for mixin in both_mixins() {
        let gate = Gate::default();
        let passed = gate.clone();
        let waits = handler_fn(move |connection| {
            passed.pass();
            StreamRequestHandler::handle(&Echo, connection)
        });
        let server = serve_with(TcpServer::builder().mixin(mixin), waits);
        let client = has_sent_urgent_data(&server, &gate);
        if stop {
            server.shutdown();
        }
        gate.open();
        assert_eq!([line_of(&client), line_of(&client)], ["one", "two"]);
        drop(client);
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

#[test]
fn lines_before_and_after_an_urgent_byte_are_answered() {
    answers_both_lines(false);
}

#[test]
fn lines_before_and_after_an_urgent_byte_that_were_received_before_a_stop_are_answered() {
    answers_both_lines(true);
}
