//! How a connection is closed after its handler has returned: so that the last answer arrives though
//! the client still sends, and without a delay where it does not.

use std::io::Write;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::*;

use crate::support::clients::{Client, rest_of, tcp};
use crate::support::recorder::{Call, Recorder};
use crate::support::servers::{both_mixins, on_every_stream_server, serve_with};
use crate::support::{TIMEOUT, next, wait_until};

#[test]
fn an_answer_arrives_although_the_client_sends_after_the_handler_has_returned() {
    // Of the large answer a part is in the client's receive buffer, the rest in the send buffer.
    for (answer, sent_later) in [(1024 * 1024, 1), (100, 100_000)] {
        let answers_one_line = handler_fn(move |connection| {
            connection.read_line(&mut String::new())?;
            Ok(connection.write_all(&vec![b'n'; answer])?)
        });
        let (handler, calls) = Recorder::new(answers_one_line);
        let calls = Mutex::new(calls);
        on_every_stream_server(handler, (), |server| {
            for attempt in 0..10 {
                let client = Client::of(server);
                client.send("please\n");
                if server.local_addr().socket_addr().is_some() {
                    while !matches!(next(&calls.lock()), Call::Finish(_)) {}
                }
                // On a Unix socket, whose buffer does not hold the answer, the handler still writes.
                thread::sleep(Duration::from_micros(500 * (attempt % 4)));
                client.send(vec![b'y'; sent_later]);
                assert_eq!(rest_of(&client).len(), answer, "{}", server.local_addr());
            }
            while calls.lock().try_recv().is_ok() {}
        });
    }
}

#[test]
fn a_connection_on_which_the_client_sent_nothing_is_closed_at_once() {
    let greets = handler_fn(|connection| Ok(writeln!(connection, "hello")?));
    on_every_stream_server(greets, (), |server| {
        let begin = Instant::now();
        // The clients stay connected after the end-of-file.
        let clients: Vec<_> = (0..20).map(|_| Client::of(server)).collect();
        clients.iter().for_each(|client| assert_eq!(rest_of(client), b"hello\n"));
        wait_until("all connections are closed", || server.stats().active == 0);
        // One after the other, lingering closes would take 20 seconds.
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_client_that_stays_connected_delays_the_next_by_a_second_at_most() {
    let greets = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        Ok(writeln!(connection, "hello")?)
    });
    on_every_stream_server(greets, (), |server| {
        let begin = Instant::now();
        let clients = [(); 2].map(|()| Client::of(server));
        for client in &clients {
            client.send("hello\n");
            assert_eq!(rest_of(client), b"hello\n");
        }
        wait_until("both connections are closed", || server.stats().active == 0);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    });
}

#[test]
fn a_stop_lets_a_close_go_on_that_waits_for_the_client() {
    const ANSWER: usize = 1024 * 1024;
    let answers_one_line = handler_fn(|connection| {
        connection.read_line(&mut String::new())?;
        Ok(connection.write_all(&vec![b'n'; ANSWER])?)
    });
    let (handler, calls) = Recorder::new(answers_one_line);
    let handler = Arc::new(handler);
    for mixin in both_mixins() {
        let server = serve_with(TcpServer::builder().mixin(mixin), handler.clone());
        let client = tcp(server.local_addr());
        (&client).write_all(b"please\n").unwrap();
        while !matches!(next(&calls), Call::Finish(_)) {}
        // The close has begun by then, most often.
        thread::sleep(Duration::from_millis(5));
        let handle = server.handle();
        let stop = thread::spawn(move || handle.stop(TIMEOUT));
        wait_until("the stop begins", || server.is_stopping());
        thread::sleep(Duration::from_millis(5));
        (&client).write_all(b"one more\n").unwrap();
        assert_eq!(rest_of(&client).len(), ANSWER);
        drop(client);
        let report = stop.join().unwrap();
        assert_eq!((report.drained, report.forced), (1, 0), "{report:?}");
    }
}
