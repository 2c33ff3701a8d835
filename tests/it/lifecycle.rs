//! Starting, serving one request at a time, stopping, and handlers that panic.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};
use socketserver::extend::*;
use socketserver::services::{Echo, Hello};
use socketserver::*;

use crate::support::clients::{Client, ask, datagram_of, echoes, rest_of, tcp, udp};
use crate::support::recorder::{Recorder, expect_calls};
use crate::support::servers::{both_mixins, flood, on_every_stream_server, serve, serve_with};
use crate::support::{TIMEOUT, next, wait_until};

// Shutting down.

#[test]
fn a_server_that_was_shut_down_does_not_start() {
    let server = TcpServer::bind("127.0.0.1:0", Hello).unwrap();
    server.handle().shutdown();
    assert!(matches!(server.serve_forever(), Err(Error::ShutDown)));
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Hello).unwrap();
    let report = server.handle().stop(TIMEOUT);
    assert!(report.is_clean());
    assert!(matches!(server.spawn(), Err(Error::ShutDown)));
}

#[test]
fn shutting_down_again_does_nothing() {
    on_every_stream_server(Echo, (), |server| {
        let handle = server.handle();
        assert!(!handle.is_stopping());
        let stops: Vec<_> = (0..4)
            .map(|n| {
                let handle = handle.clone();
                thread::spawn(move || match n % 2 {
                    0 => handle.shutdown(),
                    _ => assert!(handle.stop(TIMEOUT).is_clean()),
                })
            })
            .collect();
        stops.into_iter().for_each(|stop| stop.join().unwrap());
        assert!(handle.stop(Duration::ZERO).is_clean());
        handle.shutdown();
        assert!(handle.is_stopping());
    });
}

#[test]
fn a_handler_may_shut_its_own_server_down() {
    let shuts_down = handler_fn(|connection| {
        connection.server().shutdown();
        Ok(connection.write_all(b"done\n")?)
    });
    on_every_stream_server(shuts_down, (), |server| {
        assert_eq!(rest_of(&Client::of(server)), b"done\n");
    });
}

#[test]
fn a_handler_that_stops_its_own_server_waits_for_itself_until_the_timeout() {
    for mixin in both_mixins() {
        let (sender, reports) = mpsc::channel();
        let sender = Mutex::new(sender);
        let stops = move |connection: &mut Connection| -> HandlerResult {
            let report = connection.server().stop(Duration::from_millis(100));
            let stuck: Vec<_> = report.stuck.iter().map(|stuck| stuck.id).collect();
            Ok(sender.lock().send((stuck, connection.id()))?)
        };
        let server = serve_with(TcpServer::builder().mixin(mixin), stops);
        let _client = tcp(server.local_addr());
        let (stuck, id) = next(&reports);
        assert_eq!(stuck, [id]);
        server.join().unwrap();
    }
}

#[test]
fn writing_to_the_shutdown_pipe_shuts_down() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap();
    let pipe = server.handle().shutdown_pipe().unwrap();
    let server = server.spawn().unwrap();
    echoes(server.local_addr(), "hello\n");
    rustix::io::write(pipe, b"!").unwrap();
    server.join().unwrap();
}

#[test]
fn dropping_a_running_server_frees_its_port_and_its_handler() {
    let handler = Arc::new(Echo);
    let server = serve(handler.clone());
    let address = server.local_addr().clone();
    let client = tcp(&address);
    assert_eq!(ask(&client, "hello"), "hello");
    drop(server);
    assert!(rest_of(&client).is_empty());
    assert_eq!(Arc::strong_count(&handler), 1);
    TcpStream::connect(address.socket_addr().unwrap()).unwrap_err();
    // At once, although connections of the first server are in TIME_WAIT.
    let again = ThreadingTcpServer::bind(&address, Echo).unwrap().spawn().unwrap();
    assert_eq!(*again.local_addr(), address);
    echoes(&address, "hello again\n");
}

// Draining.

#[test]
fn a_stop_does_not_wait_for_the_drop_of_the_handler() {
    struct Slow(Mutex<mpsc::Receiver<()>>);
    impl StreamRequestHandler for Slow {
        fn handle(&self, connection: &mut Connection) -> HandlerResult {
            Ok(connection.read_line(&mut Vec::new()).map(drop)?)
        }
    }
    impl Drop for Slow {
        fn drop(&mut self) {
            next(&self.0.lock());
        }
    }
    let (stopped, waits) = mpsc::channel();
    let handler = Slow(Mutex::new(waits));
    let server = serve(handler);
    let _client = tcp(server.local_addr());
    wait_until("it is served", || server.stats().active == 1);
    let report = server.handle().stop(Duration::from_secs(2));
    assert_eq!((report.drained, report.stuck.len()), (1, 0));
    stopped.send(()).unwrap();
}

#[test]
fn a_stop_drains_idle_clients_and_answers_what_was_received() {
    let server = serve(Echo);
    let clients: Vec<_> = (0..20).map(|_| tcp(server.local_addr())).collect();
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    for mut client in &clients[..10] {
        client.write_all(b"last\nwords").unwrap();
    }
    let report = server.stop(TIMEOUT);
    assert_eq!((report.drained, report.forced, report.stuck.len()), (20, 0, 0));
    for (n, client) in clients.iter().enumerate() {
        assert_eq!(rest_of(client), if n < 10 { &b"last\nwords"[..] } else { b"" });
    }
}

#[test]
fn a_stop_answers_connections_in_the_backlog() {
    on_every_stream_server(Echo, (), |server| {
        let busy = Client::of(server);
        assert_eq!(ask(&busy, "hello"), "hello");
        let waiting: Vec<_> = (0..10).map(|_| Client::of(server)).collect();
        for client in &waiting {
            client.send("one\ntwo");
        }
        let report = server.handle().stop(TIMEOUT);
        assert!(rest_of(&busy).is_empty());
        for client in &waiting {
            assert_eq!(rest_of(client), b"one\ntwo");
        }
        assert_eq!((report.drained, report.forced), (11, 0));
    });
}

#[test]
fn a_stop_forces_a_client_that_does_not_read() {
    let (handler, calls) = Recorder::new(handler_fn(flood));
    let server = serve(handler);
    let _client = tcp(server.local_addr());
    expect_calls(&calls, &["setup", "handle"]);
    let report = server.stop(Duration::from_millis(500));
    assert_eq!((report.drained, report.forced, report.stuck.len()), (0, 1, 0), "{report:?}");
    expect_calls(&calls, &["finish"]);
}

#[test]
fn a_stop_reports_a_handler_that_does_not_return() {
    for mixin in both_mixins() {
        let (go, wait) = mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let (handler, calls) = Recorder::new(move |_: &mut Connection| -> HandlerResult {
            let _ = wait.lock().recv();
            Ok(())
        });
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let client = tcp(server.local_addr());
        expect_calls(&calls, &["setup", "handle"]);
        let handle = server.handle();
        let began = Instant::now();
        let report = server.stop(Duration::from_millis(300));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let [stuck] = &report.stuck[..] else { panic!("{report:?}") };
        assert_eq!(stuck.peer, Address::Tcp(client.local_addr().unwrap()));
        assert!(!report.is_clean());
        // It is left running, and ends later.
        go.send(()).unwrap();
        expect_calls(&calls, &["finish"]);
        wait_until("the connection has ended", || handle.stats().active == 0);
    }
}

#[test]
fn a_stop_with_a_timeout_of_zero_closes_all_connections_at_once() {
    let server = serve(Echo);
    let clients: Vec<_> = (0..10).map(|_| tcp(server.local_addr())).collect();
    for client in &clients {
        assert_eq!(ask(client, "hello"), "hello");
    }
    let began = Instant::now();
    let report = server.stop(Duration::ZERO);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(report.drained + report.forced, 10, "{report:?}");
    for client in &clients {
        assert!(rest_of(client).is_empty());
    }
}

// Serving one request at a time, and in a program's own loop.

#[test]
fn handle_request_returns_what_it_did() {
    let builder = TcpServer::builder().request_timeout(Duration::from_millis(1));
    let server = builder.bind("127.0.0.1:0", Hello).unwrap();
    assert_eq!(server.handle_request(), Handled::TimedOut);
    let client = tcp(server.local_addr());
    assert_eq!(server.handle_request(), Handled::Request);
    assert_eq!(rest_of(&client), b"Hello World!\n");
    assert_eq!(server.handle_request(), Handled::TimedOut);
    server.handle().shutdown();
    assert_eq!(server.handle_request(), Handled::ShutDown);
    assert_eq!(server.handle_request(), Handled::ShutDown);
}

#[test]
fn handle_request_without_a_timeout_waits_for_a_request_or_a_shutdown() {
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Hello).unwrap();
    let handle = server.handle();
    let waiting = thread::spawn(move || [server.handle_request(), server.handle_request()]);
    assert_eq!(rest_of(tcp(handle.local_addr())), b"Hello World!\n");
    handle.shutdown();
    assert_eq!(waiting.join().unwrap(), [Handled::Request, Handled::ShutDown]);
}

#[test]
fn a_programs_own_loop_can_poll_servers() {
    let builder = TcpServer::builder().request_timeout(Duration::ZERO);
    let stream = builder.bind("127.0.0.1:0", Hello).unwrap();
    let builder = UdpServer::builder().request_timeout(Duration::ZERO);
    let datagram = builder.bind("127.0.0.1:0", Echo).unwrap();
    let ready = || {
        let mut fds = [PollFd::new(&stream, PollFlags::IN), PollFd::new(&datagram, PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        [!fds[0].revents().is_empty(), !fds[1].revents().is_empty()]
    };
    let client = tcp(stream.local_addr());
    assert_eq!(ready(), [true, false]);
    assert_eq!(datagram.handle_request(), Handled::TimedOut);
    assert_eq!(stream.handle_request(), Handled::Request);
    assert_eq!(rest_of(&client), b"Hello World!\n");
    let client = udp(datagram.local_addr());
    client.send(b"hello").unwrap();
    assert_eq!(ready(), [false, true]);
    assert_eq!(datagram.handle_request(), Handled::Request);
    assert_eq!(datagram_of(|buffer| client.recv(buffer)), b"hello");
}

#[test]
fn service_actions_are_called_and_survive_a_panic() {
    let (sender, calls) = mpsc::channel();
    let mut count = 0;
    let actions = move || {
        count += 1;
        let _ = sender.send(count);
        assert_ne!(count, 1, "as told");
    };
    let (sender, other_calls) = mpsc::channel();
    let builder = ThreadingTcpServer::builder()
        .service_actions(Duration::from_millis(1), actions)
        .service_actions(Duration::from_millis(2), move || sender.send(()).unwrap_or_default());
    let server = serve_with(builder, Echo);
    for call in 1..=5 {
        assert_eq!(next(&calls), call);
        next(&other_calls);
        echoes(server.local_addr(), "hello\n");
    }
}

#[test]
fn a_connection_can_be_listed_and_disconnected() {
    on_every_stream_server(Echo, (), |server| {
        let client = Client::of(server);
        assert_eq!(ask(&client, "hello"), "hello");
        let connections = server.connections();
        let [connection] = &connections[..] else { panic!("{connections:?}") };
        if let Client::Tcp(stream) = &client {
            assert_eq!(connection.peer, Address::Tcp(stream.local_addr().unwrap()));
        }
        assert!(server.disconnect(connection.id));
        assert!(rest_of(&client).is_empty());
        wait_until("the connection has ended", || server.connections().is_empty());
        assert!(!server.disconnect(connection.id));
        assert_eq!(ask(&Client::of(server), "next"), "next");
    });
}

// Handlers that panic.

/// Panics in one hook, while it is armed.
struct Panics {
    hook: &'static str,
    armed: Arc<AtomicBool>,
}

impl Panics {
    fn at(&self, hook: &str) {
        let armed = self.armed.load(Ordering::SeqCst);
        assert!(!(armed && self.hook == hook), "as told, in {hook}");
    }
}

impl StreamRequestHandler for Panics {
    fn verify_request(&self, _connection: &Connection) -> bool {
        self.at("verify_request");
        true
    }

    fn setup(&self, _connection: &mut Connection) -> HandlerResult {
        self.at("setup");
        Ok(())
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        self.at("handle");
        // An error is what `handle_error` is called for.
        if self.hook == "handle_error" && self.armed.load(Ordering::SeqCst) {
            return Err("for handle_error".into());
        }
        StreamRequestHandler::handle(&Echo, connection)
    }

    fn finish(&self, _connection: &mut Connection) -> HandlerResult {
        self.at("finish");
        Ok(())
    }

    fn handle_error(
        &self,
        _connection: &Connection,
        _error: &(dyn std::error::Error + Send + Sync + 'static),
    ) {
        self.at("handle_error");
    }
}

#[test]
fn a_panic_in_any_hook_ends_one_connection_and_finish_follows_setup() {
    for (hook, expected) in [
        ("verify_request", &["error: handler panicked: as told, in verify_request"][..]),
        ("setup", &["setup", "error: handler panicked: as told, in setup"]),
        ("handle", &["setup", "handle", "finish", "error: handler panicked: as told, in handle"]),
        ("finish", &["setup", "handle", "finish", "error: handler panicked: as told, in finish"]),
        ("handle_error", &["setup", "handle", "finish", "error: for handle_error"]),
    ] {
        let armed = Arc::new(AtomicBool::new(true));
        let (handler, calls) = Recorder::new(Panics { hook, armed: armed.clone() });
        let calls = Mutex::new(calls);
        on_every_stream_server(handler, (), |server| {
            armed.store(true, Ordering::SeqCst);
            let calls = calls.lock();
            for _ in 0..3 {
                let client = Client::of(server);
                client.shutdown(Shutdown::Write);
                let _ = (&client).read_to_end(&mut Vec::new());
                expect_calls(&calls, expected);
            }
            wait_until("all have ended", || server.stats().active == 0);
            armed.store(false, Ordering::SeqCst);
            echoes(server.local_addr(), "still serving\n");
            expect_calls(&calls, &["setup", "handle", "finish"]);
            let stats = server.stats();
            let panicked = if matches!(hook, "verify_request" | "handle_error") { 0 } else { 3 };
            assert_eq!(stats.panicked, panicked, "{hook}");
            assert_eq!(stats.denied, if hook == "verify_request" { 3 } else { 0 });
            assert_eq!(stats.failed, if hook == "handle_error" { 3 } else { 0 });
        });
    }
}

#[test]
fn a_program_can_choose_its_mixin_by_a_flag() {
    let mixins: [Box<dyn Mixin>; 2] = [Box::new(Sequential), Box::new(Threading::new())];
    for mixin in mixins {
        let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", Echo).unwrap();
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve_forever());
        echoes(handle.local_addr(), "hello\n");
        handle.shutdown();
        serving.join().unwrap().unwrap();
    }
}
