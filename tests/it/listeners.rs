//! Several listeners on one server: which one a request has come by, limits and stops across them,
//! and listeners that come and go while the server serves.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;
use socketserver::extend::*;
use socketserver::services::{Echo, Hello};
use socketserver::*;

use crate::every_server::mixins;
use crate::support::clients::{
    Client, ask, datagram_of, echoes, line_of, rest_of, round_trip, tcp, udp,
};
use crate::support::servers::{answers, serve_with};
use crate::support::{Gate, TIMEOUT, TempDir, abstract_name, wait_until};

fn client(listener: &ListenerInfo) -> Client {
    Client::at(&listener.local_addr)
}

/// Sends a line and the end of the input, so that the server ends the connection when it has answered.
fn send_last(client: &Client) {
    client.send("waiting\n");
    client.shutdown(Shutdown::Write);
}

/// Answers each line with the number of the listener, the address of the listener, and the line.
fn says_listener() -> impl StreamRequestHandler {
    answers(|line, connection| {
        let ListenerInfo { id, local_addr, .. } = connection.listener().clone();
        Ok(writeln!(connection, "{id} {local_addr} {line}")?)
    })
}

fn stop(server: RunningServer) {
    let report = server.stop(TIMEOUT);
    assert!(report.is_clean(), "{report:?}");
}

fn wait_until_closed(handle: &ServerHandle, id: ListenerId) {
    let is_there = || handle.listeners().iter().any(|listener| listener.id == id);
    wait_until("the listener is closed", || !is_there());
}

fn refuses(listener: &ListenerInfo) -> bool {
    match &listener.local_addr {
        Address::Tcp(address) => TcpStream::connect(address).is_err(),
        Address::Unix(UnixName::Path(path)) => !path.exists(),
        other => panic!("{other}"),
    }
}

#[test]
fn listeners_of_every_kind_serve_beside_each_other() {
    for mixin in mixins() {
        let directory = TempDir::new();
        let path = directory.join("socket");
        let builder = TcpServer::builder().mixin(mixin).also("[::1]:0");
        let builder = builder.also(&path).also(format!("unix:{}", abstract_name()));
        let server = serve_with(builder, says_listener());
        let listeners = server.handle().listeners();
        assert_eq!(listeners.len(), 4);
        assert_eq!(&listeners[0].local_addr, server.local_addr());
        let ids: BTreeSet<_> = listeners.iter().map(|listener| listener.id).collect();
        assert_eq!(ids.len(), 4);
        // More than once, so that idle threads of the server have accepted too.
        for _ in 0..20 {
            for listener in &listeners {
                let one = client(listener);
                let expected = format!("{} {} hello", listener.id, listener.local_addr);
                assert_eq!(ask(&one, "hello"), expected);
            }
        }
        assert_eq!(server.stats().accepted, 80);
        stop(server);
        assert!(!path.exists());
        assert!(listeners[..2].iter().all(refuses));
    }
}

#[test]
fn datagram_listeners_answer_each_from_its_own_address() {
    for mixin in mixins() {
        let handler = |request: &mut DatagramRequest| -> HandlerResult {
            let listener = request.listener().local_addr.clone();
            assert_eq!(*request.local_addr(), listener);
            Ok(write!(request, "{listener}")?)
        };
        let name = format!("unixgram:{}", abstract_name());
        let builder = UdpServer::builder().mixin(mixin).also("[::1]:0").also(name.as_str());
        let server = serve_with(builder.also("127.0.0.1:0"), datagram_handler_fn(handler));
        let listeners = server.handle().listeners();
        assert_eq!(listeners.len(), 4);
        for _ in 0..10 {
            for listener in &listeners {
                let text = listener.local_addr.to_string();
                echoes_its_address(&text);
            }
        }
        stop(server);
    }
}

fn echoes_its_address(address: &str) {
    let endpoint: Endpoint = address.parse().unwrap();
    // The client's socket is connected: an answer from another address would not be received.
    assert_eq!(round_trip(endpoint, b"?"), address.as_bytes());
}

#[test]
fn a_host_name_is_listened_to_at_all_of_its_addresses() {
    let expected: BTreeSet<IpAddr> =
        ("localhost", 0).to_socket_addrs().unwrap().map(|address| address.ip()).collect();
    for mixin in mixins() {
        let server = TcpServer::builder().mixin(mixin).bind("localhost:0", Echo).unwrap();
        has_addresses(&server.handle(), &expected);
        let server = server.spawn().unwrap();
        for listener in server.handle().listeners() {
            echoes(&listener.local_addr, "hello\n");
        }
        stop(server);
    }
    let server = UdpServer::bind("localhost:0", Echo).unwrap();
    has_addresses(&server.handle(), &expected);
    let server = TcpServer::builder().also("localhost:0").bind("127.0.0.1:0", Echo).unwrap();
    assert_eq!(server.handle().listeners().len(), 1 + expected.len());
    let server = server.spawn().unwrap();
    assert_eq!(server.handle().listen("localhost:0").unwrap().len(), expected.len());
}

/// Exactly these addresses, at one port.
#[track_caller]
fn has_addresses(handle: &ServerHandle, expected: &BTreeSet<IpAddr>) {
    let listeners = handle.listeners();
    let ips: BTreeSet<_> = listeners.iter().map(|of| of.local_addr.ip().unwrap()).collect();
    let ports: BTreeSet<_> = listeners.iter().map(|of| of.local_addr.port().unwrap()).collect();
    assert_eq!(&ips, expected);
    assert_eq!((listeners.len(), ports.len()), (expected.len(), 1), "{listeners:?}");
}

#[test]
fn an_address_that_cannot_be_bound_leaves_none_bound() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let builder = ThreadingTcpServer::builder().also(&path).also(taken_address);
    let error = builder.bind(free, Echo).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }), "{error:?}");
    assert!(error.to_string().contains(&taken_address.to_string()), "{error}");
    assert!(!path.exists());
    TcpListener::bind(free).unwrap();

    let server = serve_with(ThreadingTcpServer::builder(), Echo);
    let error = server.handle().listen(taken_address).unwrap_err().to_string();
    assert!(error.contains(&taken_address.to_string()), "{error}");
    assert_eq!(server.handle().listeners().len(), 1);

    // One address of a name is taken. The other is not bound then.
    let addresses: Vec<_> = ("localhost", 0).to_socket_addrs().unwrap().collect();
    if addresses.len() > 1 {
        let last = SocketAddr::new(addresses.last().unwrap().ip(), 0);
        let taken = TcpListener::bind(last).unwrap().local_addr().unwrap();
        let taken = TcpListener::bind(taken).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = server.handle().listen(("localhost", port)).unwrap_err().to_string();
        assert!(error.contains(&taken.local_addr().unwrap().to_string()), "{error}");
        TcpListener::bind((addresses[0].ip(), port)).unwrap();
    }
}

#[test]
fn an_address_of_another_kind_is_an_error() {
    for address in ["udp://127.0.0.1:0", "unixgram:@name", "no address"] {
        let error = TcpServer::builder().also(address).bind("127.0.0.1:0", Echo).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
    }
    for address in ["tcp://127.0.0.1:0", "unix:@name"] {
        let error = UdpServer::builder().also(address).bind("127.0.0.1:0", Echo).unwrap_err();
        assert!(matches!(error, Error::Address { .. }), "{error:?}");
    }
    let server = serve_with(ThreadingTcpServer::builder(), Echo);
    let error = server.handle().listen("udp://127.0.0.1:0").unwrap_err();
    assert!(matches!(error, Error::Address { .. }), "{error:?}");
}

#[test]
fn a_limit_on_connections_counts_those_of_all_listeners() {
    for mixin in mixins().into_iter().skip(1) {
        let builder = TcpServer::builder().mixin(mixin).max_connections(2);
        let server = serve_with(builder.also("127.0.0.1:0").also("[::1]:0"), Echo);
        let listeners = server.handle().listeners();
        for _ in 0..5 {
            let held: Vec<_> = listeners[1..].iter().map(client).collect();
            held.iter().for_each(|client| assert_eq!(ask(client, "held"), "held"));
            let waiting: Vec<_> = listeners.iter().map(client).collect();
            waiting.iter().for_each(send_last);
            assert_eq!(ask(&held[0], "still here"), "still here");
            assert_eq!(server.stats().active, 2);
            drop(held);
            for client in waiting {
                assert_eq!(line_of(&client), "waiting");
            }
        }
        stop(server);
    }
}

#[test]
fn a_limit_of_a_peer_counts_its_connections_at_all_listeners() {
    let builder = ThreadingTcpServer::builder().max_connections_per_peer(2);
    let server = serve_with(builder.also("127.0.0.1:0"), Echo);
    let listeners = server.handle().listeners();
    let held: Vec<_> = listeners.iter().map(client).collect();
    held.iter().for_each(|client| assert_eq!(ask(client, "held"), "held"));
    for listener in &listeners {
        assert_eq!(rest_of(tcp(&listener.local_addr)), b"");
    }
    assert_eq!(server.stats().refused, 2);
}

#[test]
fn a_suspended_server_accepts_at_no_listener() {
    for mixin in mixins().into_iter().skip(1) {
        let server = serve_with(TcpServer::builder().mixin(mixin).also("127.0.0.1:0"), Echo);
        let listeners = server.handle().listeners();
        listeners.iter().for_each(|listener| echoes(&listener.local_addr, "before\n"));
        for _ in 0..5 {
            server.suspend();
            let accepted = server.stats().accepted;
            let waiting: Vec<_> = listeners.iter().map(client).collect();
            // Long enough for each thread to try. No event tells that none of them accepts.
            thread::sleep(Duration::from_millis(10));
            assert_eq!(server.stats().accepted, accepted);
            server.resume();
            for client in waiting {
                assert_eq!(ask(&client, "hello"), "hello");
            }
        }
        stop(server);
    }
}

#[test]
fn a_stop_serves_what_waits_at_each_listener() {
    for mixin in mixins() {
        let builder = TcpServer::builder().mixin(mixin).also("[::1]:0");
        let server = serve_with(builder.also(format!("unix:{}", abstract_name())), Echo);
        let listeners = server.handle().listeners();
        server.suspend();
        let clients: Vec<_> = (0..60).map(|i| client(&listeners[i % 3])).collect();
        clients.iter().for_each(|client| client.send("early\n"));
        let report = server.stop(TIMEOUT);
        assert!(report.is_clean(), "{report:?}");
        for client in &clients {
            assert_eq!(line_of(client), "early");
        }
    }
}

#[test]
fn a_stop_answers_the_datagrams_at_each_listener() {
    for mixin in mixins() {
        let server = serve_with(UdpServer::builder().mixin(mixin).also("127.0.0.1:0"), Echo);
        let listeners = server.handle().listeners();
        server.suspend();
        let clients: Vec<_> = listeners.iter().map(|of| udp(&of.local_addr)).collect();
        for client in &clients {
            (0..5).for_each(|_| assert_eq!(client.send(b"early").unwrap(), 5));
        }
        server.stop(TIMEOUT);
        for client in &clients {
            (0..5).for_each(|_| assert_eq!(datagram_of(|buffer| client.recv(buffer)), b"early"));
        }
    }
}

#[test]
fn a_listener_comes_while_the_server_serves() {
    for mixin in mixins() {
        let directory = TempDir::new();
        let server = serve_with(TcpServer::builder().mixin(mixin), says_listener());
        let handle = server.handle();
        let path = directory.join("socket").display().to_string();
        for address in ["127.0.0.1:0", "[::1]:0", &path] {
            let [listener] = &handle.listen(address).unwrap()[..] else { panic!() };
            for _ in 0..10 {
                let expected = format!("{} {} ?", listener.id, listener.local_addr);
                assert_eq!(ask(&client(listener), "?"), expected);
                let first = &handle.listeners()[0];
                let expected = format!("{} {} ?", first.id, first.local_addr);
                assert_eq!(ask(&client(first), "?"), expected);
            }
        }
        assert_eq!(handle.listeners().len(), 4);
        stop(server);
        assert!(matches!(handle.listen("127.0.0.1:0"), Err(Error::ShutDown)));
        assert_eq!(handle.listeners(), []);
    }
}

#[test]
fn a_listener_goes_while_its_connections_stay() {
    // Those of a sequential server are served one after the other.
    for mixin in mixins().into_iter().skip(1) {
        let directory = TempDir::new();
        let builder = TcpServer::builder().mixin(mixin).also(directory.join("socket"));
        let server = serve_with(builder.also("127.0.0.1:0"), Echo);
        let handle = server.handle();
        let listeners = handle.listeners();
        let clients: Vec<_> = listeners.iter().map(client).collect();
        clients.iter().for_each(|client| assert_eq!(ask(client, "before"), "before"));
        // The first one, which the server was bound to, and the Unix socket.
        for closed in &listeners[..2] {
            assert!(handle.close_listener(closed.id));
            wait_until_closed(&handle, closed.id);
            assert!(!handle.close_listener(closed.id));
            wait_until("connections are refused", || refuses(closed));
            echoes(&listeners[2].local_addr, "another\n");
        }
        clients.iter().for_each(|client| assert_eq!(ask(client, "after"), "after"));
        // The address is free again.
        let first = &listeners[0].local_addr;
        let address = Endpoint::from(first);
        let again = handle.listen(address).unwrap();
        assert_eq!(again[0].local_addr, *first);
        echoes(first, "again\n");
        stop(server);
    }
}

#[test]
fn what_waits_at_a_listener_is_served_before_it_is_closed() {
    let gate = Gate::default();
    let waits = {
        let gate = gate.clone();
        answers(move |line, connection| {
            gate.pass();
            Ok(writeln!(connection, "{line}")?)
        })
    };
    let waits = Arc::new(waits);
    for mixin in mixins().into_iter().skip(1) {
        gate.close();
        let builder = TcpServer::builder().mixin(mixin).max_connections(1).also("127.0.0.1:0");
        let server = serve_with(builder.also("127.0.0.1:0"), waits.clone());
        let handle = server.handle();
        let [first, second, _] = &handle.listeners()[..] else { panic!() };
        let held = client(first);
        held.send("held\n");
        wait_until("it is served", || server.stats().active == 1);
        let waiting: Vec<_> = (0..6).map(|i| client([first, second][i % 2])).collect();
        waiting.iter().for_each(send_last);
        assert!(handle.close_listener(first.id) && handle.close_listener(second.id));
        assert_eq!(handle.listeners().len(), 3, "they are closed before they are drained");
        // Not even a suspended server lets them wait.
        server.suspend();
        gate.open();
        assert_eq!(line_of(&held), "held");
        drop(held);
        for client in waiting {
            assert_eq!(line_of(&client), "waiting");
        }
        wait_until_closed(&handle, first.id);
        wait_until_closed(&handle, second.id);
        server.resume();
        stop(server);
    }
}

#[test]
fn a_server_without_a_listener_waits_for_one() {
    for mixin in mixins() {
        let server = serve_with(TcpServer::builder().mixin(mixin), Hello);
        let handle = server.handle();
        for _ in 0..3 {
            for listener in handle.listeners() {
                assert!(handle.close_listener(listener.id));
                wait_until_closed(&handle, listener.id);
            }
            let listener = &handle.listen("127.0.0.1:0").unwrap()[0];
            assert_eq!(rest_of(tcp(&listener.local_addr)), b"Hello World!\n");
        }
        handle.listeners().iter().for_each(|listener| assert!(handle.close_listener(listener.id)));
        assert!(!handle.close_listener(ListenerId::from(1000)));
        stop(server);
    }
}

#[test]
fn a_handler_may_open_and_close_listeners() {
    for mixin in mixins() {
        let handler = answers(|line, connection| {
            let server = connection.server().clone();
            match line {
                "listen" => {
                    let listener = &server.listen("127.0.0.1:0")?[0];
                    Ok(writeln!(connection, "{}", listener.local_addr)?)
                }
                _ => {
                    let closed = server.close_listener(connection.listener().id);
                    Ok(writeln!(connection, "{closed}")?)
                }
            }
        });
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let mut address = server.local_addr().to_string();
        for _ in 0..5 {
            let client = tcp(address.parse::<Endpoint>().unwrap());
            let next = ask(&client, "listen");
            assert_eq!(ask(&client, "close"), "true");
            assert_eq!(ask(&client, "close"), "false");
            drop(client);
            wait_until("it is closed", || TcpStream::connect(&address).is_err());
            address = next;
        }
        stop(server);
    }
}

#[test]
fn listeners_that_come_and_go_under_load_lose_no_client() {
    for mixin in mixins() {
        let builder = TcpServer::builder().mixin(mixin).also("127.0.0.1:0");
        let server = serve_with(builder, Hello);
        let handle = server.handle();
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            for listener in handle.listeners() {
                let is_done = &is_done;
                scope.spawn(move || {
                    let Address::Tcp(address) = listener.local_addr else { panic!() };
                    while !is_done.load(Ordering::SeqCst) {
                        assert_eq!(rest_of(tcp(address)), b"Hello World!\n");
                    }
                });
            }
            for _ in 0..60 {
                let listener = &handle.listen("127.0.0.1:0").unwrap()[0];
                let clients: Vec<_> = (0..4).map(|_| tcp(&listener.local_addr)).collect();
                // They are connected, and perhaps in the backlog.
                assert!(handle.close_listener(listener.id));
                for client in clients {
                    assert_eq!(rest_of(client), b"Hello World!\n");
                }
            }
            is_done.store(true, Ordering::SeqCst);
        });
        wait_until("they are closed", || handle.listeners().len() == 2);
        stop(server);
    }
}

#[test]
fn fifty_listeners_each_have_their_turn() {
    for mixin in mixins() {
        let mut builder = TcpServer::builder().mixin(mixin);
        for _ in 0..50 {
            builder = builder.also("127.0.0.1:0");
        }
        let server = serve_with(builder, says_listener());
        let listeners = server.handle().listeners();
        assert_eq!(listeners.len(), 51);
        // One of them is flooded.
        let is_done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::SeqCst) {
                    drop(client(&listeners[7]));
                }
            });
            for listener in listeners.iter().rev() {
                let expected = format!("{} {} ?", listener.id, listener.local_addr);
                assert_eq!(ask(&client(listener), "?"), expected);
            }
            is_done.store(true, Ordering::SeqCst);
        });
        stop(server);
    }
}

#[cfg(all(target_os = "linux", not(socketserver_portable)))]
#[test]
fn the_descriptor_of_a_server_is_readable_when_any_listener_has_something() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let is_readable = |fd| {
        poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&Timespec::default()))
            .unwrap()
            == 1
    };
    let builder = TcpServer::builder().request_timeout(Duration::ZERO).also("127.0.0.1:0");
    let server = builder.bind("127.0.0.1:0", Hello).unwrap();
    let fd = server.as_fd();
    let handle = server.handle();
    let serve = |listener: &ListenerInfo| {
        assert!(!is_readable(fd));
        let client = tcp(&listener.local_addr);
        wait_until("it is readable", || is_readable(fd));
        assert_eq!(server.handle_request(), Handled::Request);
        assert_eq!(rest_of(client), b"Hello World!\n");
        assert_eq!(server.handle_request(), Handled::TimedOut);
    };
    handle.listeners().iter().for_each(serve);
    // It is still the same descriptor.
    handle.listen("127.0.0.1:0").unwrap().iter().for_each(serve);
    let first = handle.listeners().remove(0);
    assert!(handle.close_listener(first.id));
    assert_eq!(server.handle_request(), Handled::TimedOut);
    assert!(refuses(&first));
    handle.listeners().iter().for_each(serve);
}

#[test]
fn a_listener_that_another_process_has_shut_down_does_not_disturb_the_others() {
    for mixin in mixins() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let elsewhere = listener.try_clone().unwrap();
        let builder = TcpServer::builder().mixin(mixin).also("127.0.0.1:0");
        let server = builder.from_listener(listener, Echo).unwrap().spawn().unwrap();
        let other = server.handle().listeners().remove(1);
        echoes(server.local_addr(), "before\n");
        SockRef::from(&elsewhere).shutdown(Shutdown::Both).unwrap();
        for _ in 0..20 {
            echoes(&other.local_addr, "after\n");
        }
        wait_until("it is closed", || server.handle().listeners().len() == 1);
        assert_eq!(server.stats().accept_errors, 1);
        stop(server);
    }
}

#[test]
fn an_upstream_has_the_listener_of_its_client() {
    let upstream = UdpSocket::bind("127.0.0.1:0").unwrap();
    drop(upstream);
    let target = serve_with(ThreadingTcpServer::builder(), Hello);
    let target = target.local_addr().clone();
    let handler = handler_fn(move |client: &mut Connection| {
        let upstream = client.connect(&target, TIMEOUT)?;
        let (own, of_client) = (upstream.listener().id, client.listener().id);
        Ok(writeln!(client, "{own} {of_client}")?)
    });
    let server = serve_with(ThreadingTcpServer::builder().also("127.0.0.1:0"), handler);
    let second = server.handle().listeners().remove(1);
    let mut answer = String::new();
    BufReader::new(tcp(&second.local_addr)).read_line(&mut answer).unwrap();
    assert_eq!(answer, format!("{0} {0}\n", second.id));
}

#[test]
fn a_boxed_transport_of_the_program_may_have_further_listeners() {
    struct Mine(transport::Tcp);
    impl AsFd for Mine {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    impl Transport for Mine {
        type Handler = dyn StreamRequestHandler;
        fn bind(endpoint: &Endpoint, options: &TransportOptions) -> Result<Mine> {
            Ok(Mine(transport::Tcp::bind(endpoint, options)?))
        }
        fn local_addr(&self) -> std::io::Result<Address> {
            self.0.local_addr()
        }
        fn accept(&self, options: &TransportOptions) -> std::io::Result<IncomingStream> {
            self.0.accept(options)
        }
    }
    let server = Server::<Mine, Threading>::builder().also("127.0.0.1:0");
    let server = server.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    for listener in server.handle().listeners() {
        let mut client = tcp(&listener.local_addr);
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"hello");
    }
}
