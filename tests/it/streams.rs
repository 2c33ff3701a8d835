//! What a stream handler and its client can rely on: nothing needs a flush, nothing is lost, and
//! what a client does affects its own connection only.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::Tcp;
use socketserver::*;

use crate::support::clients::{Client, ask, line_of, lines, reset, rest_of, tcp};
use crate::support::recorder::{Call, Recorder, expect_calls, next_error};
use crate::support::servers::{Settings, flood, on_every_stream_server, serve};
use crate::support::{TIMEOUT, next};

#[test]
fn a_read_that_waits_sends_the_answer_before_it() {
    let dialogue = handler_fn(|connection| {
        let mut name = String::new();
        writeln!(connection, "name?")?;
        connection.read_line(&mut name)?;
        write!(connection, "hello, {name}")?;
        let mut byte = [0];
        connection.read_exact(&mut byte)?;
        writeln!(connection, "{}", byte[0])?;
        let mut large = [0; 10_000];
        let length = connection.read(&mut large)?;
        writeln!(connection, "{length}")?;
        connection.fill_buf()?;
        Ok(())
    });
    on_every_stream_server(dialogue, (), |server| {
        let client = Client::of(server);
        assert_eq!(line_of(&client), "name?");
        assert_eq!(ask(&client, "ada"), "hello, ada");
        client.send("A");
        assert_eq!(line_of(&client), "65");
        client.send("BC");
        assert_eq!(line_of(&client), "2");
    });
}

#[test]
fn flushed_output_arrives_while_the_handler_is_busy() {
    let (go, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let busy = move |connection: &mut Connection| -> HandlerResult {
        connection.write_all(b"working\n")?;
        connection.flush()?;
        wait.lock().recv()?;
        Ok(connection.write_all(b"done\n")?)
    };
    on_every_stream_server(busy, (), |server| {
        let client = Client::of(server);
        assert_eq!(line_of(&client), "working");
        go.send(()).unwrap();
        assert_eq!(line_of(&client), "done");
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    on_every_stream_server(Echo, (), |server| {
        let client = Client::of(server);
        let requests: String = (0..5000).map(|n| format!("request {n}\n")).collect();
        thread::scope(|scope| {
            scope.spawn(|| {
                client.send(&requests);
                client.shutdown(Shutdown::Write);
            });
            assert_eq!(rest_of(&client), requests.as_bytes());
        });
    });
}

#[test]
fn every_byte_value_and_a_last_line_without_its_end_are_echoed() {
    let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    on_every_stream_server(Echo, (), |server| {
        let client = Client::of(server);
        client.send(&bytes);
        client.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&client), bytes);
    });
}

#[test]
fn a_client_that_has_shut_down_its_writes_is_answered() {
    let counts = handler_fn(|connection| {
        let mut all = Vec::new();
        connection.read_to_end(&mut all)?;
        writeln!(connection, "{} bytes, goodbye", all.len())?;
        Ok(())
    });
    on_every_stream_server(counts, (), |server| {
        let client = Client::of(server);
        client.send(vec![b'x'; 300_000]);
        client.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&client), b"300000 bytes, goodbye\n");
    });
}

#[test]
fn a_handler_may_shut_down_its_writes_and_read_on() {
    let (sender, replies) = mpsc::channel();
    let sender = Mutex::new(sender);
    let half_close = move |connection: &mut Connection| -> HandlerResult {
        connection.write_all(b"over\n")?;
        connection.shutdown(Shutdown::Write)?;
        let mut reply = String::new();
        connection.read_line(&mut reply)?;
        Ok(sender.lock().send(reply)?)
    };
    on_every_stream_server(half_close, (), |server| {
        let client = Client::of(server);
        assert_eq!(rest_of(&client), b"over\n");
        client.send("understood\n");
        assert_eq!(next(&replies), "understood\n");
    });
}

/// Echoes a line, and then does this until the client has reset the connection: the handler fails,
/// but this is an ordinary end, and not reported as an error.
fn is_reset(then: fn(&mut Connection) -> HandlerResult) {
    let (handler, calls) = Recorder::new(handler_fn(move |connection| {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        connection.write_all(line.as_bytes())?;
        loop {
            then(connection)?;
        }
    }));
    let server = serve(handler);
    let client = tcp(server.local_addr());
    assert_eq!(ask(&client, "hello"), "hello");
    reset(client);
    let handle = server.handle();
    expect_calls(&calls, &["setup", "handle", "finish"]);
    assert!(server.stop(TIMEOUT).is_clean());
    let stats = handle.stats();
    assert_eq!((stats.failed, stats.panicked, stats.finished), (0, 0, 1));
    assert!(calls.try_recv().is_err(), "handle_error was called");
}

#[test]
fn a_reset_while_the_handler_reads_is_no_error() {
    is_reset(|connection| Ok(connection.read_line(&mut String::new()).map(drop)?));
}

#[test]
fn a_reset_while_the_handler_writes_is_no_error() {
    is_reset(|connection| Ok(connection.write_all(&[b'x'; 100_000])?));
}

#[test]
fn an_answer_arrives_although_the_handler_has_not_read_all_input() {
    let reads_one_line = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        Ok(connection.write_all(&[b'n'; 100_000])?)
    });
    on_every_stream_server(reads_one_line, (), |server| {
        for _ in 0..20 {
            let client = Client::of(server);
            client.send([b"please\n".to_vec(), vec![b'y'; 20_000]].concat());
            let answer = rest_of(&client);
            assert_eq!(answer.len(), 100_000);
        }
    });
}

#[test]
fn a_large_answer_reaches_a_slow_reader_whole() {
    const SIZE: usize = 8 * 1024 * 1024;
    let pieces = handler_fn(|connection| {
        let mut size = 1;
        let mut written = 0;
        while written < SIZE {
            let piece = vec![(size % 251) as u8; size.min(SIZE - written)];
            connection.write_all(&piece)?;
            written += piece.len();
            size = (size * 3) % 50_021 + 1;
        }
        Ok(())
    });
    on_every_stream_server(pieces, (), |server| {
        let mut client = &Client::of(server);
        let mut expected = 1;
        let mut left = 0;
        let mut total = 0;
        let mut buffer = vec![0; 7919];
        loop {
            let length = client.read(&mut buffer).unwrap();
            if length == 0 {
                break;
            }
            for byte in &buffer[..length] {
                if left == 0 {
                    left = expected;
                }
                assert_eq!(*byte, (expected % 251) as u8, "at {total}");
                left -= 1;
                total += 1;
                if left == 0 {
                    expected = (expected * 3) % 50_021 + 1;
                }
            }
        }
        assert_eq!(total, SIZE);
    });
}

/// Limits on reading and writing.
struct Short(Duration);

impl Settings for Short {
    fn apply<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        builder.read_timeout(self.0).write_timeout(self.0)
    }
}

#[test]
fn a_silent_client_times_out_and_the_next_is_served() {
    let (handler, calls) = Recorder::new(Echo);
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, Short(Duration::from_millis(50)), |server| {
        let silent = Client::of(server);
        let calls = calls.lock();
        expect_calls(&calls, &["setup", "handle", "finish"]);
        let error = next_error(&calls);
        assert!(error.contains("timed out"), "{error}");
        assert!(rest_of(&silent).is_empty());
        let client = Client::of(server);
        client.send("hello\n");
        assert_eq!(line_of(&client), "hello");
        drop(client);
        // The second may time out too, before the server reads its end-of-file.
        while !matches!(next(&calls), Call::Finish(_)) {}
        while calls.try_recv().is_ok() {}
    });
}

#[test]
fn a_client_that_never_reads_times_out_and_the_next_is_served() {
    let floods = handler_fn(|connection| {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        if line == "flood\n" {
            return flood(connection);
        }
        Ok(connection.write_all(line.as_bytes())?)
    });
    let (handler, calls) = Recorder::new(floods);
    let calls = Mutex::new(calls);
    on_every_stream_server(handler, Short(Duration::from_millis(200)), |server| {
        let slow = Client::of(server);
        slow.send("flood\n");
        let calls = calls.lock();
        expect_calls(&calls, &["setup", "handle", "finish"]);
        let error = next_error(&calls);
        assert!(error.contains("timed out"), "{error}");
        let client = Client::of(server);
        assert_eq!(ask(&client, "hello"), "hello");
        expect_calls(&calls, &["setup", "handle", "finish"]);
    });
}

#[test]
fn a_line_that_is_interrupted_by_a_timeout_can_be_read_on() {
    let (sender, timeouts) = mpsc::channel();
    let sender = Mutex::new(sender);
    let reads_on = handler_fn(move |connection| {
        connection.set_read_timeout(Some(Duration::from_millis(20)));
        let mut command = String::new();
        connection.read_line(&mut command)?;
        let (mut text, mut bytes) = (String::new(), Vec::new());
        loop {
            let read = match &*command {
                "text\n" => connection.read_line(&mut text),
                _ => connection.read_line(&mut bytes),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::TimedOut => sender.lock().send(())?,
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            };
        }
        connection.write_all(text.as_bytes())?;
        Ok(connection.write_all(&bytes)?)
    });
    let timeouts = Mutex::new(timeouts);
    on_every_stream_server(reads_on, (), |server| {
        for command in ["text", "bytes"] {
            let client = Client::of(server);
            // The first part ends within a character.
            client.send(format!("{command}\n"));
            client.send(b"first half \xc3");
            next(&timeouts.lock());
            client.send(b"\xa9 second half\n");
            assert_eq!(line_of(&client), "first half \u{e9} second half");
            while timeouts.lock().try_recv().is_ok() {}
        }
    });
}

/// TCP that looks at the options of the sockets that it accepts.
struct Inspected(Tcp);

/// The options of the last socket: keepalive, user timeout, read and write timeout, no delay.
static FOUND: Mutex<Option<[Option<Duration>; 5]>> = Mutex::new(None);

impl AsFd for Inspected {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Transport for Inspected {
    type Handler = dyn StreamRequestHandler;

    fn bind(endpoint: &Endpoint, options: &TransportOptions) -> socketserver::Result<Inspected> {
        Ok(Inspected(Tcp::bind(endpoint, options)?))
    }

    fn prepare(&self, options: &TransportOptions) -> std::io::Result<()> {
        self.0.prepare(options)
    }

    fn local_addr(&self) -> std::io::Result<Address> {
        self.0.local_addr()
    }

    fn accept(&self, options: &TransportOptions) -> std::io::Result<IncomingStream> {
        let incoming = self.0.accept(options)?;
        let fd = incoming.stream.as_fd().unwrap();
        let socket = socket2::SockRef::from(&fd);
        let keepalive = socket.keepalive()?.then(|| socket.tcp_keepalive_time());
        *FOUND.lock() = Some([
            keepalive.transpose()?,
            user_timeout(&socket)?,
            socket.read_timeout()?,
            socket.write_timeout()?,
            socket.tcp_nodelay()?.then_some(Duration::ZERO),
        ]);
        Ok(incoming)
    }
}

#[cfg(target_os = "linux")]
fn user_timeout(socket: &socket2::SockRef<'_>) -> std::io::Result<Option<Duration>> {
    socket.tcp_user_timeout()
}

/// Other systems do not tell.
#[cfg(not(target_os = "linux"))]
fn user_timeout(_socket: &socket2::SockRef<'_>) -> std::io::Result<Option<Duration>> {
    Ok(None)
}

#[test]
fn a_connection_has_the_socket_options_of_its_server() {
    let found = |server: Server<Inspected, Sequential>| {
        let client = tcp(server.local_addr());
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.handle_request(), Handled::Request);
        // Whole seconds, for the kernel rounds up to its clock.
        FOUND.lock().take().unwrap().map(|time| time.map(|time| time.as_secs()))
    };
    let seconds = Some;
    // A blocked write waits for an eighth of its timeout of 30 s at a time.
    let eighth_of_the_timeout = seconds(3);
    let server = Server::bind("127.0.0.1:0", Echo).unwrap();
    assert_eq!(found(server), [seconds(60), seconds(120), None, eighth_of_the_timeout, seconds(0)]);
    let builder = Server::builder().keepalive(None).user_timeout(None).write_timeout(None);
    let server = builder.nodelay(false).bind("127.0.0.1:0", Echo).unwrap();
    assert_eq!(found(server), [None; 5]);
    let builder = Server::builder().user_timeout(Duration::from_secs(7));
    let builder = builder.read_timeout(Duration::from_secs(8)).idle_timeout(Duration::from_secs(9));
    let server = builder.bind("127.0.0.1:0", Echo).unwrap();
    assert_eq!(found(server)[1..3], [seconds(7), seconds(9)]);
}

#[test]
fn a_connection_knows_its_number_its_ends_and_its_server() {
    let tells = handler_fn(|connection| {
        let server = connection.server().clone();
        let own = server.connections().iter().any(|other| other.id == connection.id());
        let local = connection.local_addr()? == *server.local_addr();
        writeln!(connection, "{} {own} {local} {}", connection.id(), server.stats().active)?;
        Ok(())
    });
    on_every_stream_server(tells, (), |server| {
        for id in 1..=3 {
            let client = Client::of(server);
            let said: Vec<_> = lines(&client).collect();
            assert_eq!(said.len(), 1);
            assert!(said[0].starts_with(&format!("{id} true true ")), "{said:?}");
        }
    });
}

#[test]
fn a_hundred_clients_each_get_their_own_answers() {
    let server = serve(Echo);
    let clients: Vec<_> = (0..100).map(|_| Client::of(&server)).collect();
    for round in 0..3 {
        for (n, client) in clients.iter().enumerate() {
            client.send(format!("{round} {n}\n"));
        }
        for (n, client) in clients.iter().enumerate().rev() {
            assert_eq!(line_of(client), format!("{round} {n}"));
        }
    }
    assert_eq!(server.stats().active, 100);
    assert_eq!(server.stop(TIMEOUT).drained, 100);
}
