//! What is sent and received after the handshake.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::services::Echo;
use socketserver::*;

use crate::every_server::on_every_server;
use crate::support::clients::{line_of, rest_of};
use crate::support::close_reasons::{Limits, SHORT, is_counted};
use crate::support::recorder::{Call, Recorder, next_finish};
use crate::support::servers::{answers, echo_bytes};
use crate::support::{TIMEOUT, next, wait_until};
use crate::tls_clients::{WithTls, ask, connect, end_output, handshake, server_config, with_tls};

/// More than the kernel buffers.
const MUCH: usize = 16 * 1024 * 1024;

#[test]
fn lines_and_large_messages_are_echoed() {
    let handler = || (echo_bytes, ());
    on_every_server(with_tls(), handler, |server, ()| {
        let mut client = connect(server);
        for line in ["hello", "", "again"] {
            assert_eq!(ask(&mut client, line), line);
        }
        let large: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
        for length in [1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 100_000] {
            client.write_all(&large[..length]).unwrap();
            let mut answer = vec![0; length];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(answer, large[..length], "{length}");
        }
    });
}

#[test]
fn both_sides_say_that_their_output_ends() {
    let handler = || Recorder::new(Echo);
    on_every_server(with_tls(), handler, |server, calls| {
        let mut client = connect(server);
        client.write_all(b"the last words").unwrap();
        end_output(&mut client);
        // rustls returns an error for EOF without `close_notify`.
        assert_eq!(rest_of(&mut client), b"the last words");
        assert_eq!(next_finish(&calls), CloseReason::Eof);
        is_counted(&server.handle(), &[CloseReason::Eof]);
        // Without what TLS adds.
        let stats = server.stats();
        let bytes = [stats.bytes_received, stats.bytes_sent].map(|bytes| bytes.sum());
        assert_eq!(bytes, ["the last words".len() as u64; 2]);
    });
}

#[test]
fn what_comes_with_the_last_words_is_read_though_nothing_follows() {
    // The end; and a record that was not encrypted.
    for (is_end, reason) in [(true, CloseReason::Eof), (false, CloseReason::Reset)] {
        on_every_server(
            with_tls(),
            || Recorder::new(Echo),
            |server, calls| {
                let mut client = connect(server);
                handshake(&mut client).unwrap();
                let mut together = Vec::new();
                client.conn.writer().write_all(b"the last words\n").unwrap();
                if is_end {
                    client.conn.send_close_notify();
                }
                client.conn.write_tls(&mut together).unwrap();
                if !is_end {
                    together.extend([23, 3, 3, 0, 20]);
                    together.extend([0; 20]);
                }
                // The socket stays open.
                client.sock.0.send(&together);
                assert_eq!(next_finish(&calls), reason);
                if is_end {
                    assert_eq!(rest_of(&mut client), b"the last words\n");
                }
            },
        );
    }
}

#[test]
fn a_handler_that_returns_says_that_its_output_ends() {
    let handler = || (services::Hello, ());
    on_every_server(with_tls(), handler, |server, ()| {
        assert_eq!(rest_of(connect(server)), b"Hello World!\n");
    });
}

#[test]
fn a_half_closed_connection_is_read_on() {
    let handler = || {
        let handler = handler_fn(|connection| {
            connection.write_all(b"that is all")?;
            connection.shutdown(Shutdown::Write)?;
            let mut all = String::new();
            connection.read_to_string(&mut all)?;
            assert_eq!(all, "and this is mine");
            let more = connection.write_all(b"more").and_then(|()| connection.flush());
            assert_eq!(more.unwrap_err().kind(), ErrorKind::BrokenPipe);
            Ok(())
        });
        Recorder::new(handler)
    };
    on_every_server(with_tls(), handler, |server, calls| {
        let mut client = connect(server);
        assert_eq!(rest_of(&mut client), b"that is all");
        client.write_all(b"and this is mine").unwrap();
        end_output(&mut client);
        assert_eq!(next_finish(&calls), CloseReason::Reset);
    });
}

#[test]
fn a_truncation_is_an_error_and_no_failure_of_the_handler() {
    let handler = || {
        let (results, next_result) = channel();
        let results = Mutex::new(results);
        let (handler, calls) = Recorder::new(handler_fn(move |connection: &mut Connection| {
            connection.write_all(b"go\n")?;
            let mut all = Vec::new();
            let read = connection.read_to_end(&mut all);
            results.lock().send((all, read.as_ref().map_err(|e| e.kind()).copied())).unwrap();
            read?;
            Ok(())
        }));
        (handler, (calls, next_result))
    };
    on_every_server(with_tls(), handler, |server, (calls, next_result)| {
        let mut client = connect(server);
        assert_eq!(line_of(&mut client), "go");
        client.write_all(b"a part of").unwrap();
        drop(client);
        assert_eq!(next(&next_result), (b"a part of".to_vec(), Err(ErrorKind::UnexpectedEof)));
        assert_eq!(next_finish(&calls), CloseReason::Reset);
        is_counted(&server.handle(), &[CloseReason::Reset]);
        assert_eq!(calls.try_recv().ok(), None);
    });
}

#[test]
fn a_broken_record_is_an_error_and_no_failure_of_the_handler() {
    let handler = || Recorder::new(Echo);
    on_every_server(with_tls(), handler, |server, calls| {
        let mut client = connect(server);
        assert_eq!(ask(&mut client, "hello"), "hello");
        client.sock.0.send(b"\x17\x03\x03\x00\x20this is no ciphertext of 32 byte");
        let error = client.read(&mut [0]).unwrap_err().to_string();
        assert!(error.contains("BadRecordMac"), "{error}");
        drop(client);
        assert_eq!(next_finish(&calls), CloseReason::Reset);
        is_counted(&server.handle(), &[CloseReason::Reset]);
        assert_eq!(calls.try_recv().ok(), None);
    });
}

#[test]
fn a_stop_answers_what_was_received() {
    const LINES: usize = 2000;
    let handler = || (answers(|line, connection| Ok(writeln!(connection, "{line}")?)), ());
    on_every_server(with_tls(), handler, |server, ()| {
        let mut client = connect(server);
        assert_eq!(ask(&mut client, "hello"), "hello");
        let lines: String = (0..LINES).map(|number| format!("{number}\n")).collect();
        client.write_all(lines.as_bytes()).unwrap();
        client.flush().unwrap();
        let stopping = {
            let handle = server.handle();
            thread::spawn(move || handle.stop(TIMEOUT))
        };
        // `close_notify` comes too, which `rest_of` insists on.
        assert_eq!(String::from_utf8(rest_of(&mut client)).unwrap(), lines);
        assert!(stopping.join().unwrap().is_clean());
    });
}

#[test]
fn a_stop_is_no_truncation() {
    let handler = || Recorder::new(Echo);
    on_every_server(with_tls(), handler, |server, calls| {
        let mut client = connect(server);
        assert_eq!(ask(&mut client, "hello"), "hello");
        assert!(server.handle().stop(TIMEOUT).is_clean());
        assert_eq!(rest_of(&mut client), b"");
        assert_eq!(next_finish(&calls), CloseReason::Stopped);
        assert_eq!(calls.try_recv().ok(), None);
    });
}

#[test]
fn a_read_waits_no_longer_because_a_record_arrives_in_pieces() {
    let read = Limits { read: Some(SHORT), ..Limits::default() };
    let idle = Limits { idle: Some(SHORT), ..Limits::default() };
    let handler = || Recorder::new(Echo);
    for (limits, reason) in [(read, CloseReason::ReadTimeout), (idle, CloseReason::IdleTimeout)] {
        on_every_server(WithTls(server_config(), limits), handler, |server, calls| {
            let mut client = connect(server);
            assert_eq!(ask(&mut client, "hello"), "hello");
            client.conn.writer().write_all(&[b'x'; 10_000]).unwrap();
            let mut record = Vec::new();
            client.conn.write_tls(&mut record).unwrap();
            // All of it would take half a minute.
            let ended = record.chunks(1).find_map(|byte| {
                client.sock.0.send(byte);
                let call = calls.recv_timeout(SHORT / 20).ok()?;
                matches!(call, Call::Finish(_)).then_some(call)
            });
            assert_eq!(ended, Some(Call::Finish(Some(reason))));
        });
    }
}

#[test]
fn a_client_that_reads_nothing_is_cut_off() {
    let limits = Limits { write: Some(4 * SHORT), ..Limits::default() };
    let flood = || Recorder::new(crate::support::servers::flood);
    on_every_server(WithTls(server_config(), limits), flood, |server, calls| {
        let mut client = connect(server);
        handshake(&mut client).unwrap();
        assert_eq!(next_finish(&calls), CloseReason::WriteTimeout);
        assert!(matches!(next(&calls), Call::Error { .. }));
    });
}

#[test]
fn a_slow_client_that_reads_is_not_cut_off() {
    let limits = Limits { write: Some(4 * SHORT), ..Limits::default() };
    let handler = || {
        let handler = handler_fn(|connection| Ok(connection.write_all(&vec![b'x'; MUCH / 4])?));
        Recorder::new(handler)
    };
    on_every_server(WithTls(server_config(), limits), handler, |server, calls| {
        let mut client = connect(server);
        let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
        loop {
            match client.read(&mut buffer).unwrap() {
                0 => break,
                length => total += length,
            }
            thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(total, MUCH / 4);
        assert_eq!(next_finish(&calls), CloseReason::Completed);
    });
}

#[test]
fn a_read_goes_on_while_a_write_is_blocked_and_the_other_way_round() {
    let handler = || {
        let (done, is_done) = channel();
        let done = Mutex::new(done);
        let handler = handler_fn(move |connection: &mut Connection| {
            let (mut reader, mut writer) = connection.split();
            let done = done.lock().clone();
            sync::scope(|scope| {
                let _writing = scope.spawn(move || {
                    writer.write_all(&vec![b'x'; MUCH]).unwrap();
                    writer.flush().unwrap();
                })?;
                let mut all = vec![0; MUCH];
                reader.read_exact(&mut all).unwrap();
                assert!(all.iter().all(|byte| *byte == b'y'));
                done.send("read").unwrap();
                Ok::<(), Error>(())
            })?;
            Ok(())
        });
        (handler, is_done)
    };
    on_every_server(with_tls(), handler, |server, is_done| {
        // Sends all before it reads anything: the server's write is blocked long before.
        let mut client = connect(server);
        client.write_all(&vec![b'y'; MUCH]).unwrap();
        client.flush().unwrap();
        assert_eq!(next(&is_done), "read");
        let received = rest_of(&mut client);
        assert!(received.len() == MUCH && received.iter().all(|byte| *byte == b'x'));
    });
}

#[test]
fn a_sender_and_a_broadcast_reach_clients_in_order() {
    const MESSAGES: usize = 3000;
    let handler = || {
        let (senders, next_sender) = channel();
        let (senders, room) = (Mutex::new(senders), Broadcast::new());
        let members = room.clone();
        let handler = handler_fn(move |connection: &mut Connection| {
            let _member = members.join(connection)?;
            senders.lock().send(connection.sender(16 * 1024 * 1024)?).unwrap();
            let mut line = String::new();
            while connection.read_line(&mut line)? > 0 {
                write!(connection, "answer: {line}")?;
                line.clear();
            }
            Ok(())
        });
        (handler, (next_sender, room))
    };
    on_every_server(with_tls(), handler, |server, (next_sender, room)| {
        let mut client = connect(server);
        handshake(&mut client).unwrap();
        let sender = next(&next_sender);
        let sending = thread::spawn(move || {
            for number in 0..MESSAGES {
                let text = "x".repeat(number % 500);
                sender.send(format!("sent: {number} {text}\n")).unwrap();
                room.send(format!("broadcast: {number} {text}\n"));
            }
        });
        client.write_all(b"hello\n").unwrap();
        client.flush().unwrap();
        // Both writers find no room meanwhile.
        thread::sleep(SHORT);
        let (mut sent, mut broadcast, mut answers) = (0, 0, 0);
        let mut lines = std::io::BufReader::new(&mut client);
        while sent < MESSAGES || broadcast < MESSAGES || answers < 1 {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut lines, &mut line).unwrap();
            let mut words = line.split(' ');
            match (words.next().unwrap(), words.next().unwrap().trim()) {
                ("sent:", number) => {
                    assert_eq!(number, sent.to_string());
                    sent += 1;
                }
                ("broadcast:", number) => {
                    assert_eq!(number, broadcast.to_string());
                    broadcast += 1;
                }
                ("answer:", "hello") => answers += 1,
                _ => panic!("{line}"),
            }
        }
        sending.join().unwrap();
    });
}

#[test]
fn a_select_finds_input_that_is_decrypted_already_and_none_that_is_not_whole() {
    let handler = || {
        let (found, next_found) = channel();
        let found = Mutex::new(found);
        let handler = handler_fn(move |connection: &mut Connection| {
            let found = found.lock().clone();
            let mut select = Select::new();
            let mut look = |connection: &Connection, time: Duration| {
                let deadline = Instant::now() + time;
                select.wait(&[connection], deadline).map(|index| index.is_some())
            };
            let mut byte = [0; 5];
            // One record, of which the connection's buffer takes a part; the rest is with the session.
            connection.read_exact(&mut byte)?;
            found.send(look(connection, Duration::ZERO)?).unwrap();
            let mut rest = vec![0; 16_000 - 5];
            connection.read_exact(&mut rest)?;
            // A part of a record.
            writeln!(connection, "go")?;
            found.send(look(connection, 3 * SHORT)?).unwrap();
            writeln!(connection, "go on")?;
            found.send(look(connection, TIMEOUT)?).unwrap();
            let mut line = String::new();
            connection.read_line(&mut line)?;
            assert_eq!(line, "in two parts\n");
            found.send(look(connection, TIMEOUT)?).unwrap();
            assert_eq!(connection.read(&mut byte)?, 0);
            Ok(())
        });
        (handler, next_found)
    };
    on_every_server(with_tls(), handler, |server, found| {
        let mut client = connect(server);
        client.write_all(&[b'x'; 16_000]).unwrap();
        client.flush().unwrap();
        assert!(next(&found));
        assert_eq!(line_of(&mut client), "go");
        client.conn.writer().write_all(b"in two parts\n").unwrap();
        let mut record = Vec::new();
        client.conn.write_tls(&mut record).unwrap();
        client.sock.0.send(&record[..10]);
        assert!(!next(&found));
        assert_eq!(line_of(&mut client), "go on");
        client.sock.0.send(&record[10..]);
        assert!(next(&found));
        end_output(&mut client);
        assert!(next(&found));
        rest_of(&mut client);
    });
}

#[test]
fn a_disconnect_ends_a_connection_without_its_end() {
    let handler = || Recorder::new(Echo);
    on_every_server(with_tls(), handler, |server, calls| {
        let mut client = connect(server);
        assert_eq!(ask(&mut client, "hello"), "hello");
        let id = server.connections()[0].id;
        assert!(server.handle().disconnect(id));
        // The client must not take what it has for everything.
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::UnexpectedEof);
        assert_eq!(next_finish(&calls), CloseReason::Stopped);
        wait_until("it has ended", || server.stats().finished == 1);
    });
}
