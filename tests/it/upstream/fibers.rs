//! Other clients of the same worker are served while the fiber of one connects, looks up, or relays.

use std::thread;

use socketserver::*;

use super::connect::full_backlog;
use super::{KINDS, Kind, Listener, fill};
use crate::support::clients::{Client, ask, tcp};
use crate::support::servers::{answers, serve_with};
use crate::support::{TIMEOUT, wait_until};

/// A server with one worker, whose handler connects to the address in a line, or echoes.
fn on_one_worker() -> RunningServer {
    let handler = answers(|line, client| {
        use std::io::Write;
        match line.split_once(' ') {
            Some(("connect", address)) => {
                let error = client.connect(address, 10 * super::SHORT).unwrap_err();
                Ok(writeln!(client, "{error}")?)
            }
            Some(("relay", address)) => {
                let mut upstream = client.connect(address, TIMEOUT)?;
                client.relay(&mut upstream)?;
                Ok(())
            }
            _ => Ok(writeln!(client, "{line}")?),
        }
    });
    serve_with(FiberTcpServer::builder().mixin(Fibers::new().workers(1)), handler)
}

#[test]
fn others_are_served_while_a_fiber_connects() {
    for kind in KINDS {
        let (_listener, _waiting, address) = full_backlog(kind);
        let server = on_one_worker();
        let (mut client, other) = (tcp(server.local_addr()), tcp(server.local_addr()));
        use std::io::Write;
        writeln!(client, "connect {address}").unwrap();
        let is_connecting = || {
            let connections = server.handle().connections();
            connections.iter().any(|info| info.activity == Activity::Connecting)
        };
        wait_until("it connects", is_connecting);
        for number in 0..5 {
            assert_eq!(ask(&other, &number.to_string()), number.to_string());
        }
        assert!(is_connecting(), "it has gone on meanwhile");
        let line = crate::support::clients::line_of(&client);
        assert!(line.starts_with("timed out"), "{line}");
        drop((client, other));
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

#[test]
fn many_fibers_look_up_names_at_the_same_time() {
    let server = on_one_worker();
    let clients: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
    use std::io::Write;
    for mut client in &clients {
        writeln!(client, "connect no-such-host.invalid:80").unwrap();
    }
    for client in &clients {
        let line = crate::support::clients::line_of(client);
        assert!(line.contains("no-such-host.invalid"), "{line}");
    }
    drop(clients);
    assert!(server.stop(TIMEOUT).is_clean());
}

/// A relay that always has something to carry yields like any fiber.
#[test]
fn others_are_served_while_a_fiber_relays_without_pause() {
    let server = on_one_worker();
    let upstream = Listener::new(Kind::Tcp);
    let (client, other) = (Client::Tcp(tcp(server.local_addr())), tcp(server.local_addr()));
    client.send(format!("relay {}\n", upstream.address()));
    let upstream = upstream.accept();
    thread::scope(|scope| {
        scope.spawn(|| {
            use std::io::Write;
            while (&upstream).write(&[b'x'; 65_536]).is_ok() {}
        });
        scope.spawn(|| {
            use std::io::Read;
            let mut buffer = vec![0; 65_536];
            while (&client).read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        for number in 0..30 {
            assert_eq!(ask(&other, &number.to_string()), number.to_string());
        }
        client.shutdown(std::net::Shutdown::Both);
        upstream.shutdown(std::net::Shutdown::Both);
    });
    drop((client, upstream, other));
    assert!(server.stop(TIMEOUT).is_clean());
}

#[test]
fn others_are_served_while_a_relay_is_full() {
    let server = on_one_worker();
    let upstream = Listener::new(Kind::Tcp);
    let (client, other) = (Client::Tcp(tcp(server.local_addr())), tcp(server.local_addr()));
    client.send(format!("relay {}\n", upstream.address()));
    let upstream = upstream.accept();
    fill(&client);
    fill(&upstream);
    for number in 0..5 {
        assert_eq!(ask(&other, &number.to_string()), number.to_string());
    }
    drop((client, upstream, other));
    assert!(server.stop(TIMEOUT).is_clean());
}
