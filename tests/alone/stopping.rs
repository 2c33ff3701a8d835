//! What a stop promises to connected clients, however many they are and whatever they do. These
//! tests measure times.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::Signal;
use socketserver::services::{Chat, Echo};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{Client, echoes, line_of, rest_of, tcp};
use crate::support::servers::{both_mixins, flood, on_every_stream_server, serve, serve_with};
use crate::support::{TIMEOUT, next, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_client_that_is_still_sending_gets_its_whole_answer,
    a_stop_forces_a_client_that_does_not_read,
    a_chat_member_that_does_not_read_takes_all_of_the_stops_time_and_is_reported,
    a_client_that_does_not_read_delays_a_stop_by_the_write_timeout,
    a_client_that_resets_does_not_delay_a_stop,
    dropping_a_server_ends_connections_of_handle_request,
    fifty_handlers_that_ignore_the_stop_cost_the_timeout_once,
    requests_that_tcp_has_acknowledged_before_the_stop_are_answered,
    a_client_that_sends_without_end_does_not_delay_a_stop,
    a_stop_forces_a_handler_that_writes_without_end,
    a_busy_handler_sees_the_stop_and_sends_its_last_line,
    a_signal_handler_may_shut_down_at_any_time,
];

/// More than the receive buffer of a slow client holds, and less than the send buffer.
const ANSWER: usize = 1024 * 1024;

struct Answer {
    written: mpsc::Sender<()>,
    finished: mpsc::Sender<()>,
}

impl StreamRequestHandler for Answer {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(&vec![b'x'; ANSWER])?;
        self.written.send(())?;
        // Reads until the client or the stop ends the input.
        std::io::copy(connection, &mut std::io::sink())?;
        Ok(())
    }

    fn finish(&self, _connection: &mut Connection) -> HandlerResult {
        Ok(self.finished.send(())?)
    }
}

/// A client with a small receive buffer, so that most of an answer stays in the send buffer.
fn slow_client(server: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket.into()
}

fn a_client_that_is_still_sending_gets_its_whole_answer() {
    let ((written, is_written), (finished, is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = serve(Answer { written, finished });
    let mut client = slow_client(server.local_addr().socket_addr().unwrap());
    next(&is_written);
    let handle = server.handle();
    let stop = thread::spawn(move || handle.stop(TIMEOUT));
    // The stop has ended the input of the handler, and the server closes the connection.
    next(&is_finished);
    for _ in 0..10 {
        client.write_all(b"and another thing\n").unwrap();
    }
    let mut answer = Vec::new();
    // After the answer may come a reset, since the server does not read what was sent last.
    let _ = client.read_to_end(&mut answer);
    assert_eq!(answer.len(), ANSWER);
    let report = stop.join().unwrap();
    assert_eq!((report.drained, report.forced), (1, 0), "{report:?}");
}

fn a_stop_forces_a_client_that_does_not_read() {
    let ((written, is_written), (finished, _is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = serve(Answer { written, finished });
    let _client = slow_client(server.local_addr().socket_addr().unwrap());
    next(&is_written);
    let report = server.stop(Duration::from_millis(500));
    assert_eq!((report.drained, report.forced), (0, 1), "{report:?}");
    assert!(report.stuck.is_empty(), "{report:?}");
}

fn a_chat_member_that_does_not_read_takes_all_of_the_stops_time_and_is_reported() {
    let chat = Chat::new();
    let room = chat.room().clone();
    let server = serve(chat);
    let member = slow_client(server.local_addr().socket_addr().unwrap());
    wait_until("it is a member", || room.members() == 1);
    // More than the system's buffers hold, and less than would disconnect the member.
    for _ in 0..48 {
        room.send([b'x'; 64 * 1024]);
    }
    let (timeout, began) = (Duration::from_secs(1), Instant::now());
    let report = server.stop(timeout);
    let took = began.elapsed();
    assert_eq!((report.drained, report.forced), (0, 1), "{report:?}");
    assert!(report.stuck.is_empty() && !report.is_clean(), "{report:?}");
    assert!(took > timeout / 2 && took < 2 * timeout, "{took:?}");
    drop(member);
}

fn a_client_that_does_not_read_delays_a_stop_by_the_write_timeout() {
    let ((written, is_written), (finished, _is_finished)) = (mpsc::channel(), mpsc::channel());
    let builder = ThreadingTcpServer::builder().write_timeout(Duration::from_millis(100));
    let server = serve_with(builder, Answer { written, finished });
    let _client = slow_client(server.local_addr().socket_addr().unwrap());
    next(&is_written);
    let report = server.stop(TIMEOUT / 3);
    assert_eq!((report.drained, report.forced), (1, 0), "{report:?}");
}

fn a_client_that_resets_does_not_delay_a_stop() {
    let ((written, is_written), (finished, is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = serve(Answer { written, finished });
    let client = slow_client(server.local_addr().socket_addr().unwrap());
    next(&is_written);
    let handle = server.handle();
    let stop = thread::spawn(move || handle.stop(TIMEOUT));
    next(&is_finished);
    // Closing with unread input resets the connection.
    drop(client);
    let report = stop.join().unwrap();
    assert_eq!((report.drained, report.forced), (1, 0), "{report:?}");
}

fn dropping_a_server_ends_connections_of_handle_request() {
    let ((written, _is_written), (finished, is_finished)) = (mpsc::channel(), mpsc::channel());
    let server = ThreadingTcpServer::bind("127.0.0.1:0", Answer { written, finished }).unwrap();
    let client = tcp(server.local_addr());
    assert_eq!(server.handle_request(), Handled::Request);
    let reader = thread::spawn(move || rest_of(client).len());
    let handle = server.handle();
    drop(server);
    // All is over when the drop returns.
    is_finished.try_recv().expect("the handler has ended");
    assert_eq!(handle.stats().active, 0);
    assert_eq!(reader.join().unwrap(), ANSWER);
}

fn fifty_handlers_that_ignore_the_stop_cost_the_timeout_once() {
    let (started, is_started) = mpsc::channel();
    let over = Arc::new(AtomicBool::new(false));
    let (started, is_over) = (Mutex::new(started), over.clone());
    let ignores_the_stop = handler_fn(move |connection| {
        started.lock().send(())?;
        while !is_over.load(Ordering::SeqCst) {
            let _ = connection.read(&mut [0; 5000]);
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    let server = serve(ignores_the_stop);
    let clients: Vec<_> = (0..50).map(|_| tcp(server.local_addr())).collect();
    clients.iter().for_each(|_| next(&is_started));
    let handle = server.handle();
    let (timeout, began) = (Duration::from_millis(500), Instant::now());
    let report = server.stop(timeout);
    let took = began.elapsed();
    // Once for each of them would be 25 seconds.
    assert!(took < 10 * timeout, "{took:?}");
    assert_eq!((report.drained, report.forced, report.stuck.len()), (0, 0, 50), "{report:?}");
    let peers: Vec<_> = report.stuck.iter().map(|stuck| stuck.peer.clone()).collect();
    for client in &clients {
        assert!(peers.contains(&Address::Tcp(client.local_addr().unwrap())));
    }
    assert!(report.stuck.iter().all(|stuck| stuck.age >= timeout / 2), "{report:?}");
    over.store(true, Ordering::SeqCst);
    wait_until("all have ended", || handle.stats().active == 0);
}

/// The number of bytes that each TCP socket of the machine has sent and that are not acknowledged, by
/// its own and its peer's port ([proc(5)](https://man7.org/linux/man-pages/man5/proc_net.5.html)).
fn unacknowledged() -> HashMap<(u16, u16), usize> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let port = |address: &str| u16::from_str_radix(address.rsplit_once(':')?.1, 16).ok();
    let row = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let ports = (port(fields.next()?)?, port(fields.next()?)?);
        let unsent = fields.nth(1)?.split_once(':')?.0;
        Some((ports, usize::from_str_radix(unsent, 16).ok()?))
    };
    table.lines().filter_map(row).collect()
}

const LINE: usize = 64;

/// A line with this number. All lines have the same length.
fn numbered(number: usize) -> String {
    format!("{number:063}\n")
}

fn requests_that_tcp_has_acknowledged_before_the_stop_are_answered() {
    const CLIENTS: usize = 40;
    // Half of the clients are in the backlog when the stop begins.
    let builder = ThreadingTcpServer::builder().max_connections(CLIENTS / 2);
    let server = serve_with(builder, Echo);
    let port = server.local_addr().port().unwrap();
    let clients: Vec<_> = (0..CLIENTS).map(|_| tcp(server.local_addr())).collect();
    let written: Vec<_> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    thread::scope(|scope| {
        let answered: Vec<_> = (clients.iter().zip(&written))
            .map(|(client, written)| {
                scope.spawn(move || {
                    let mut client = client;
                    // Until the connection is closed; without pauses at first.
                    for number in 0.. {
                        if client.write_all(numbered(number).as_bytes()).is_err() {
                            break;
                        }
                        written.fetch_add(LINE, Ordering::SeqCst);
                        if number > 2000 {
                            thread::sleep(Duration::from_micros(100));
                        }
                    }
                });
                scope.spawn(move || {
                    let mut lines = BufReader::new(client);
                    let mut count = 0;
                    let mut line = String::new();
                    // The connection may end with a reset, since the client sends on.
                    while lines.read_line(&mut line).is_ok() && line == numbered(count) {
                        count += 1;
                        line.clear();
                    }
                    count
                })
            })
            .collect();
        wait_until("all have sent a lot", || {
            written.iter().all(|written| written.load(Ordering::SeqCst) > 1000 * LINE)
        });
        let written: Vec<_> =
            written.iter().map(|written| written.load(Ordering::SeqCst)).collect();
        let unacknowledged = unacknowledged();
        let began = Instant::now();
        let report = server.stop(TIMEOUT);
        let took = began.elapsed();
        assert_eq!((report.forced, report.stuck.len()), (0, 0), "{report:?}");
        assert_eq!(report.drained, CLIENTS);

        let mut total = (0, 0);
        for ((client, written), answered) in clients.iter().zip(written).zip(answered) {
            let own = client.local_addr().unwrap().port();
            let unacknowledged = unacknowledged[&(own, port)];
            let received = written.saturating_sub(unacknowledged) / LINE;
            let answered = answered.join().unwrap();
            assert!(answered >= received, "{answered} of {received} requests were answered");
            total = (total.0 + received, total.1 + answered);
        }
        let (received, answered) = total;
        eprintln!(
            "{received} requests acknowledged before the stop, {answered} answered; {took:?}"
        );
        assert!(total.0 > 0);
    });
}

fn a_client_that_sends_without_end_does_not_delay_a_stop() {
    let (started, is_started) = mpsc::channel();
    let started = Mutex::new(started);
    // The handler reads more slowly than the client sends.
    let slow = handler_fn(move |connection: &mut Connection| {
        let mut buffer = vec![0; 64 * 1024];
        while connection.read(&mut buffer)? > 0 {
            let _ = started.lock().send(());
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    });
    on_every_stream_server(slow, (), |server| {
        let client = Client::of(server);
        thread::scope(|scope| {
            // Until the server closes the connection.
            scope.spawn(|| while (&mut &client).write_all(&[b'x'; 64 * 1024]).is_ok() {});
            next(&is_started);
            let report = server.handle().stop(TIMEOUT / 3);
            // If the stop has failed, this ends the thread that writes.
            let _ = match &client {
                Client::Tcp(stream) => stream.shutdown(Shutdown::Both),
                Client::Unix(stream) => stream.shutdown(Shutdown::Both),
            };
            assert_eq!((report.drained, report.forced), (1, 0), "{report:?}");
        });
        while is_started.try_recv().is_ok() {}
    });
}

fn a_stop_forces_a_handler_that_writes_without_end() {
    for mixin in both_mixins() {
        let server = serve_with(TcpServer::builder().mixin(mixin), handler_fn(flood));
        let mut client = tcp(server.local_addr());
        // The client reads all of it, so that the handler never waits.
        let reader = thread::spawn(move || {
            let mut buffer = [0; 64 * 1024];
            while matches!(client.read(&mut buffer), Ok(1..)) {}
        });
        wait_until("it is served", || server.stats().active == 1);
        let handle = server.handle();
        let report = server.stop(Duration::from_millis(500));
        // On a busy machine the handler may not have seen the end in time.
        assert_eq!(report.forced + report.stuck.len(), 1, "{report:?}");
        reader.join().unwrap();
        wait_until("it has ended", || handle.stats().active == 0);
    }
}

fn a_busy_handler_sees_the_stop_and_sends_its_last_line() {
    let busy = handler_fn(|connection| {
        writeln!(connection, "working")?;
        connection.flush()?;
        while !connection.is_stopping() {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(writeln!(connection, "goodbye")?)
    });
    on_every_stream_server(busy, (), |server| {
        let client = Client::of(server);
        assert_eq!(line_of(&client), "working");
        let report = server.handle().stop(TIMEOUT);
        assert_eq!(line_of(&client), "goodbye");
        assert!(report.is_clean(), "{report:?}");
    });
}

#[allow(unsafe_code)]
fn a_signal_handler_may_shut_down_at_any_time() {
    for _ in 0..20 {
        let server = serve(Echo);
        let handle = server.handle();
        let shutdown = move || handle.shutdown();
        // SAFETY: `shutdown` is async-signal-safe: it takes no lock and allocates nothing.
        let id = unsafe { signal_hook::low_level::register(Signal::USR2.as_raw(), shutdown) };
        let interrupted = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !interrupted.load(Ordering::SeqCst) {
                        // The signal interrupts a thread that holds one of the locks, sooner or later.
                        let _ = (server.stats(), server.connections(), server.is_stopping());
                    }
                });
            }
            echoes(server.local_addr(), "hello\n");
            rustix::process::kill_process(rustix::process::getpid(), Signal::USR2).unwrap();
            wait_until("the stop begins", || server.is_stopping());
            interrupted.store(true, Ordering::SeqCst);
        });
        signal_hook::low_level::unregister(id.unwrap());
        server.join().unwrap();
    }
}
