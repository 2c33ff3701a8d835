//! Connecting to an upstream, and using it without a relay.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};
use socketserver::*;

use super::{KINDS, Kind, Listener, SHORT};
use crate::mixins::all_mixins;
use crate::support::clients::{line_of, rest_of, tcp};
use crate::support::recorder::{Recorder, next_error, next_finish};
use crate::support::servers::{Settings, serve_with};
use crate::support::{Gate, TIMEOUT, TempDir, abstract_name, next, wait_until};

/// Runs a test on a server of each mixin, whose handler sends what this returns.
fn on_every_mixin<R: Send + 'static>(
    settings: impl Settings,
    handle: impl Fn(&mut Connection) -> R + Clone + Send + Sync + 'static,
    test: impl Fn(&RunningServer, &Receiver<R>),
) {
    for (name, mixin) in all_mixins() {
        let (sender, results) = channel();
        let (sender, handle) = (Mutex::new(sender), handle.clone());
        let handler = handler_fn(move |client| {
            let _ = sender.lock().send(handle(client));
            Ok(())
        });
        let builder = settings.apply(TcpServer::builder().mixin(mixin));
        let server = serve_with(builder, handler);
        test(&server, &results);
        let report = server.stop(TIMEOUT);
        assert!(report.is_clean(), "{name}: {report:?}");
    }
}

/// What connecting to this results in, under each mixin.
fn connects(address: &str, timeout: Duration, check: impl Fn(Result<Connection>, Duration)) {
    let (address, sample) = (address.to_owned(), timeout);
    let handle = move |client: &mut Connection| {
        let begin = Instant::now();
        (client.connect(&*address, sample), begin.elapsed())
    };
    on_every_mixin((), handle, |server, results| {
        let client = tcp(server.local_addr());
        let (result, time) = next(results);
        let is_ok = result.is_ok();
        check(result, time);
        let stats = server.stats();
        assert_eq!((stats.upstreams, stats.upstream_errors), (is_ok.into(), (!is_ok).into()));
        drop(client);
    });
}

#[test]
fn a_handler_asks_an_upstream_and_answers_its_client() {
    for kind in KINDS {
        let upstream = Listener::new(kind);
        let address = upstream.address();
        let handle = move |client: &mut Connection| {
            let mut upstream = client.connect(&*address, TIMEOUT).unwrap();
            let mut line = String::new();
            while client.read_line(&mut line).unwrap() > 0 {
                upstream.write_all(line.as_bytes()).unwrap();
                line.clear();
                // Sends the question first.
                upstream.read_line(&mut line).unwrap();
                client.write_all(line.as_bytes()).unwrap();
                line.clear();
            }
            upstream.write_all(b"bye\n").unwrap();
            upstream.peer_addr().to_string() == address
        };
        on_every_mixin((), handle, |server, results| {
            let client = tcp(server.local_addr());
            let upstream = upstream.accept();
            for number in 0..3 {
                (&client).write_all(format!("question {number}\n").as_bytes()).unwrap();
                assert_eq!(line_of(&upstream), format!("question {number}"));
                upstream.send(format!("answer {number}\n"));
                assert_eq!(line_of(&client), format!("answer {number}"));
            }
            client.shutdown(std::net::Shutdown::Write).unwrap();
            // The rest of the output is sent when the upstream is dropped, and it is closed.
            assert_eq!(rest_of(&upstream), b"bye\n");
            assert!(next(results));
        });
    }
}

#[test]
fn the_output_to_the_client_is_sent_before_connecting() {
    let upstream = Listener::new(Kind::Tcp);
    let address = upstream.address();
    let handle = move |client: &mut Connection| {
        client.write_all(b"please wait\n").unwrap();
        let mut upstream = client.connect(&*address, TIMEOUT).unwrap();
        upstream.read(&mut [0; 1]).unwrap()
    };
    on_every_mixin((), handle, |server, results| {
        let client = tcp(server.local_addr());
        let upstream = upstream.accept();
        assert_eq!(line_of(&client), "please wait");
        drop(upstream);
        assert_eq!(next(results), 0);
    });
}

#[test]
fn a_refusal_names_the_address() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    connects(&free, TIMEOUT, |result, _| match result {
        Err(Error::Connect { address, source, .. }) => {
            assert_eq!((address, source.kind()), (free.clone(), io::ErrorKind::ConnectionRefused));
        }
        result => panic!("{result:?}"),
    });
    let directory = TempDir::new();
    let stale = directory.join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    let name = format!("unix:{}", stale.display());
    connects(&name, TIMEOUT, |result, _| match result {
        Err(Error::Connect { address, source, .. }) => {
            assert_eq!((address, source.kind()), (name.clone(), io::ErrorKind::ConnectionRefused));
        }
        result => panic!("{result:?}"),
    });
    connects("unix:/no/such/socket", TIMEOUT, |result, _| match result {
        Err(Error::Connect { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::NotFound),
        result => panic!("{result:?}"),
    });
}

#[test]
fn a_name_that_does_not_exist_and_an_address_that_is_none_are_errors() {
    connects("no-such-host.invalid:80", TIMEOUT, |result, _| match result {
        Err(Error::Resolve { host, .. }) => assert_eq!(host, "no-such-host.invalid"),
        result => panic!("{result:?}"),
    });
    for address in ["udp://127.0.0.1:7", "unixgram:/tmp/x"] {
        connects(address, TIMEOUT, |result, _| match result {
            Err(Error::Address { .. }) => {}
            result => panic!("{address}: {result:?}"),
        });
    }
}

/// A listener whose backlog is full: Linux answers no more SYN, and Unix sockets would block.
pub(super) fn full_backlog(kind: Kind) -> (Socket, Vec<Socket>, String) {
    let (domain, address, name) = match kind {
        Kind::Tcp => {
            let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
            (Domain::IPV4, any.into(), String::new())
        }
        Kind::Unix => {
            let name = abstract_name();
            let path = name.strip_prefix('@').map_or(name.clone(), |name| format!("\0{name}"));
            (Domain::UNIX, socket2::SockAddr::unix(path).unwrap(), format!("unix:{name}"))
        }
    };
    let listener = Socket::new(domain, Type::STREAM, None).unwrap();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        // A TCP connection that is not established in this time is one too many.
        let is_connected = match kind {
            Kind::Tcp => socket.connect_timeout(&address, 4 * SHORT).is_ok(),
            Kind::Unix => {
                socket.set_nonblocking(true).unwrap();
                socket.connect(&address).is_ok()
            }
        };
        if !is_connected {
            break;
        }
        waiting.push(socket);
        assert!(waiting.len() < 100, "the backlog is never full");
    }
    let name = match kind {
        Kind::Tcp => address.as_socket().unwrap().to_string(),
        Kind::Unix => name,
    };
    (listener, waiting, name)
}

#[test]
fn connecting_takes_no_longer_than_its_timeout() {
    for kind in KINDS {
        let (_listener, _waiting, address) = full_backlog(kind);
        connects(&address, 3 * SHORT, |result, time| {
            match result {
                Err(Error::ConnectTimeout { address: at, limit, .. }) => {
                    assert_eq!((at, limit), (address.clone(), 3 * SHORT));
                }
                result => panic!("{result:?}"),
            }
            assert!(time >= 3 * SHORT && time < Duration::from_secs(10), "{time:?}");
        });
    }
}

#[test]
fn a_unix_upstream_whose_backlog_is_full_is_connected_to_when_it_is_not() {
    let (listener, _waiting, address) = full_backlog(Kind::Unix);
    let handle = move |client: &mut Connection| client.connect(&*address, TIMEOUT).map(drop);
    on_every_mixin((), handle, |server, results| {
        let _client = tcp(server.local_addr());
        wait_until("it connects", || {
            let connections = server.handle().connections();
            connections.iter().any(|client| client.activity == Activity::Connecting)
        });
        listener.accept().unwrap();
        next(results).unwrap();
    });
}

/// `localhost` is 127.0.0.1 and, mostly, ::1. One of them refuses.
#[test]
fn the_next_address_of_a_name_is_tried_when_one_refuses() {
    for ip in [Ipv4Addr::LOCALHOST.into(), std::net::IpAddr::from(Ipv6Addr::LOCALHOST)] {
        let Ok(listener) = TcpListener::bind((ip, 0)) else { continue };
        let port = listener.local_addr().unwrap().port();
        let name = format!("localhost:{port}");
        let known: Vec<_> = std::net::ToSocketAddrs::to_socket_addrs(&*name).unwrap().collect();
        if !known.iter().any(|address| address.ip() == ip) {
            continue;
        }
        connects(&name, TIMEOUT, |result, _| {
            let connection = result.unwrap();
            assert_eq!(
                connection.peer_addr().to_string(),
                listener.local_addr().unwrap().to_string()
            );
        });
    }
}

#[test]
fn the_limits_of_an_upstream_are_those_of_its_client() {
    let limits = crate::support::close_reasons::Limits {
        read: Some(SHORT),
        line: Some(10),
        ..Default::default()
    };
    for kind in KINDS {
        let upstream = Listener::new(kind);
        let address = upstream.address();
        let handle = move |client: &mut Connection| {
            let mut upstream = client.connect(&*address, TIMEOUT).unwrap();
            [0, 1].map(|_| upstream.read_line(&mut String::new()).unwrap_err())
        };
        on_every_mixin(limits.clone(), handle, |server, results| {
            let _client = tcp(server.local_addr());
            let upstream = upstream.accept();
            upstream.send("far too long a line");
            let [too_long, late] = next(results);
            assert!(matches!(Error::of(&too_long), Some(Error::LineTooLong { limit: 10, .. })));
            assert!(
                matches!(Error::of(&late), Some(Error::ReadTimeout { limit: SHORT, .. })),
                "{late:?}"
            );
        });
    }
}

#[test]
fn an_upstream_is_listed_with_its_client_while_it_is_open() {
    for kind in KINDS {
        let upstream = Listener::new(kind);
        let (address, gate) = (upstream.address(), Gate::default());
        let (at, may_end) = (address.clone(), gate.clone());
        let handle = move |client: &mut Connection| {
            let mut upstream = client.connect(&*at, TIMEOUT).unwrap();
            assert_eq!(upstream.read(&mut [0; 1]).unwrap(), 0);
            drop(upstream);
            may_end.pass();
        };
        on_every_mixin((), handle, |server, results| {
            let client = tcp(server.local_addr());
            let upstream = upstream.accept();
            let handle = server.handle();
            let info = || handle.connections().into_iter().next().unwrap();
            wait_until("it waits for input", || info().activity == Activity::Reading);
            let names: Vec<_> = info().upstreams.iter().map(ToString::to_string).collect();
            assert_eq!(names, std::slice::from_ref(&address));
            assert_eq!(info().peer.to_string(), client.local_addr().unwrap().to_string());
            drop(upstream);
            wait_until("it is listed no more", || info().upstreams.is_empty());
            gate.open();
            next(results);
            gate.close();
        });
    }
}

#[test]
fn disconnecting_a_client_ends_what_its_handler_waits_for() {
    // For input of an upstream.
    let upstream = Listener::new(Kind::Tcp);
    let address = upstream.address();
    let handle = move |client: &mut Connection| {
        let mut upstream = client.connect(&*address, TIMEOUT).unwrap();
        upstream.read(&mut [0; 1]).map_err(|error| error.kind())
    };
    on_every_mixin((), handle, |server, results| {
        let client = tcp(server.local_addr());
        let upstream = upstream.accept();
        let handle = server.handle();
        let id = handle.connections()[0].id;
        assert!(handle.disconnect(id));
        assert_eq!(next(results), Ok(0));
        assert_eq!((rest_of(&client), rest_of(&upstream)), (vec![], vec![]));
    });
    // To be connected.
    let (_listener, _waiting, address) = full_backlog(Kind::Tcp);
    let handle = move |client: &mut Connection| client.connect(&*address, TIMEOUT).map(drop);
    on_every_mixin((), handle, |server, results| {
        let client = tcp(server.local_addr());
        let handle = server.handle();
        let is_connecting = |info: &ConnectionInfo| {
            info.activity == Activity::Connecting && !info.upstreams.is_empty()
        };
        wait_until("it connects", || handle.connections().iter().any(is_connecting));
        assert!(handle.disconnect(handle.connections()[0].id));
        let error = next(results).unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "{error:?}");
        assert_eq!(rest_of(&client), b"");
    });
}

#[test]
fn a_panic_closes_the_upstream() {
    for (name, mixin) in all_mixins() {
        let upstream = Listener::new(Kind::Tcp);
        let address = upstream.address();
        let (handler, calls) = Recorder::new(handler_fn(move |client| {
            let mut upstream = client.connect(&*address, TIMEOUT)?;
            upstream.read_exact(&mut [0; 1])?;
            upstream.write_all(b"not sent")?;
            panic!("as it should");
        }));
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let client = tcp(server.local_addr());
        let upstream = upstream.accept();
        upstream.send("x");
        assert_eq!(rest_of(&upstream), b"", "{name}");
        assert_eq!(next_finish(&calls), CloseReason::Panicked);
        assert!(next_error(&calls).contains("as it should"));
        assert_eq!(rest_of(&client), b"");
        drop(client);
        wait_until("the request has ended", || server.stats().finished == 1);
        assert!(server.handle().connections().is_empty());
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

#[test]
fn an_error_of_the_upstream_is_not_the_clients() {
    for (name, mixin) in all_mixins() {
        let upstream = Listener::new(Kind::Tcp);
        let address = upstream.address();
        let (handler, calls) = Recorder::new(handler_fn(move |client| {
            let mut upstream = client.connect(&*address, TIMEOUT)?;
            upstream.read_exact(&mut [0; 1])?;
            Ok(())
        }));
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let client = tcp(server.local_addr());
        match upstream.accept() {
            crate::support::clients::Client::Tcp(stream) => crate::support::clients::reset(stream),
            crate::support::clients::Client::Unix(_) => unreachable!(),
        }
        assert_eq!(next_finish(&calls), CloseReason::Failed, "{name}");
        assert_eq!(rest_of(&client), b"");
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

#[test]
fn code_without_a_client_connects_by_the_handle() {
    let upstream = Listener::new(Kind::Tcp);
    let address = upstream.address();
    let server = crate::support::servers::serve(services::Echo);
    let mut connection = server.handle().connect(&*address, TIMEOUT).unwrap();
    let far = upstream.accept();
    connection.write_all(b"hello\n").unwrap();
    connection.flush().unwrap();
    assert_eq!(line_of(&far), "hello");
    far.send("well\n");
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    assert_eq!(line, "well\n");
    let stats = server.stats();
    assert_eq!((stats.upstreams, stats.active), (1, 0));
    // It belongs to no request: a stop does not wait for it.
    assert!(server.stop(TIMEOUT).is_clean());
    far.send("later\n");
    line.clear();
    connection.read_line(&mut line).unwrap();
    assert_eq!(line, "later\n");
}
