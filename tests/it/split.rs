//! What the halves of a split connection promise: one reads while the other writes, with the limits,
//! the close reasons and the stop of the whole.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::framing::{LengthPrefixed, Prefix};
use socketserver::*;

use crate::every_server::on_every_server;
use crate::support::clients::{Client, line_of, reset, rest_of, tcp};
use crate::support::close_reasons::{Limits, SHORT};
use crate::support::servers::serve;
use crate::support::{TIMEOUT, next};

/// More than the kernel buffers.
const MUCH: usize = 16 * 1024 * 1024;

/// Says that a half has done its part.
type Done = (Sender<&'static str>, Receiver<&'static str>);

#[test]
fn a_read_ends_while_a_write_is_blocked() {
    for reader_on_own_thread in [false, true] {
        let handler = || {
            let (done, is_done): Done = channel();
            let handler = handler_fn(move |connection| {
                let (mut reader, mut writer) = connection.split();
                let (of_reader, of_writer) = (done.clone(), done.clone());
                let mut read = move || -> std::io::Result<()> {
                    let mut line = String::new();
                    reader.read_line(&mut line)?;
                    assert_eq!(line, "go\n");
                    of_reader.send("read").unwrap();
                    Ok(())
                };
                let mut write = move || -> std::io::Result<()> {
                    writer.write_all(&vec![b'x'; MUCH])?;
                    writer.flush()?;
                    of_writer.send("written").unwrap();
                    Ok(())
                };
                thread::scope(|scope| match reader_on_own_thread {
                    true => {
                        let reading = scope.spawn(read);
                        write()?;
                        reading.join().unwrap()
                    }
                    false => {
                        let writing = scope.spawn(write);
                        read()?;
                        writing.join().unwrap()
                    }
                })?;
                Ok(())
            });
            (handler, is_done)
        };
        on_every_server((), handler, |server, is_done| {
            let client = Client::of(server);
            // Until the writer is blocked, or nearly so.
            (&client).read_exact(&mut [0; 1000]).unwrap();
            client.send("go\n");
            assert_eq!(next(&is_done), "read");
            assert!(is_done.try_recv().is_err(), "not blocked");
            assert_eq!(rest_of(&client).len(), MUCH - 1000);
            assert_eq!(next(&is_done), "written");
        });
    }
}

#[test]
fn a_write_ends_while_a_read_is_blocked() {
    let handler = || {
        let handler = handler_fn(|connection| {
            let (reader, mut writer) = connection.split();
            thread::scope(|scope| {
                scope.spawn(move || {
                    for count in 0..100 {
                        // The reader waits already, for all but the first.
                        writeln!(writer, "{count}").unwrap();
                        writer.flush().unwrap();
                        thread::sleep(Duration::from_millis(1));
                    }
                });
                assert_eq!(reader.lines().count(), 1);
            });
            Ok(())
        });
        (handler, ())
    };
    on_every_server((), handler, |server, ()| {
        let client = Client::of(server);
        for count in 0..100 {
            assert_eq!(line_of(&client), count.to_string());
        }
        client.send("end\n");
        client.shutdown(Shutdown::Write);
        assert_eq!(rest_of(&client), b"");
    });
}

#[test]
fn a_read_does_not_send_the_output_and_a_drop_does() {
    let (go, wait) = channel();
    let wait = Mutex::new(wait);
    let server = serve(handler_fn(move |connection| {
        let (mut reader, mut writer) = connection.split();
        writer.write_all(b"answer\n")?;
        reader.read_line(&mut String::new())?;
        next::<()>(&wait.lock());
        drop(writer);
        Ok(reader.read_line(&mut String::new()).map(drop)?)
    }));
    let client = tcp(server.local_addr());
    (&client).write_all(b"question\n").unwrap();
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // It must not arrive.
    assert_eq!((&client).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.set_read_timeout(Some(TIMEOUT)).unwrap();
    go.send(()).unwrap();
    assert_eq!(line_of(&client), "answer");
}

#[test]
fn the_connection_is_whole_again_with_what_is_buffered() {
    let mut in_memory = Connection::in_memory("one\ntwo\n\0\x05three\0\x04fou");
    let connection = in_memory.as_mut();
    let frames = LengthPrefixed::new(Prefix::U16);
    let mut line = String::new();
    let (mut reader, mut writer) = connection.split();
    reader.read_line(&mut line).unwrap();
    writer.write_all(b"1 ").unwrap();
    drop((reader, writer));
    connection.read_line(&mut line).unwrap();
    connection.write_all(b"2 ").unwrap();
    let (mut reader, mut writer) = connection.split();
    let mut message = Vec::new();
    assert!(reader.read_message(&frames, &mut message).unwrap());
    writer.write_message(&frames, &message).unwrap();
    let error = reader.read_message(&frames, &mut message).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    drop((reader, writer));
    assert_eq!((&*line, in_memory.output()), ("one\ntwo\n", b"1 2 \0\x05three".to_vec()));
}

/// A handler whose `finish` tells the close reason.
struct Ends<F>(F, Sender<CloseReason>);

impl<F> StreamRequestHandler for Ends<F>
where
    F: Fn(Reader<'_>, Writer<'_>) -> HandlerResult + Send + Sync + 'static,
{
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let (reader, writer) = connection.split();
        self.0(reader, writer)
    }
    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        Ok(self.1.send(connection.close_reason().unwrap())?)
    }
    fn handle_error(&self, _: &Connection, _: &(dyn std::error::Error + Send + Sync)) {}
}

#[track_caller]
fn ends(
    expected: CloseReason,
    limits: Limits,
    handle: impl Fn(Reader<'_>, Writer<'_>) -> HandlerResult + Clone + Send + Sync + 'static,
    client: impl Fn(&Client),
) {
    let (reasons, received) = channel();
    on_every_server(
        limits,
        || (Ends(handle.clone(), reasons.clone()), ()),
        |server, ()| {
            let connected = Client::of(server);
            client(&connected);
            assert_eq!(next(&received), expected);
        },
    );
}

#[test]
fn the_halves_have_the_limits_and_close_reasons_of_the_whole() {
    let read = |mut reader: Reader<'_>, _: Writer<'_>| -> HandlerResult {
        Ok(reader.read_line(&mut String::new()).map(drop)?)
    };
    let none = Limits::default;
    ends(CloseReason::ReadTimeout, Limits { read: Some(SHORT), ..none() }, read, |_| {});
    ends(CloseReason::IdleTimeout, Limits { idle: Some(SHORT), ..none() }, read, |_| {});
    ends(CloseReason::MessageTimeout, Limits { message: Some(SHORT), ..none() }, read, |client| {
        client.send("part");
    });
    ends(CloseReason::Limit, Limits { line: Some(8), ..none() }, read, |client| {
        client.send("much too long\n");
    });
    ends(CloseReason::Completed, none(), read, |client| client.send("a line\n"));
    ends(CloseReason::Eof, none(), read, |client| client.shutdown(Shutdown::Write));

    let write = |_: Reader<'_>, mut writer: Writer<'_>| -> HandlerResult {
        // The handler ignores the error, the connection does not.
        _ = writer.write_all(&vec![0; MUCH]);
        Ok(())
    };
    ends(CloseReason::WriteTimeout, Limits { write: Some(SHORT), ..none() }, write, |_| {});
    let both = move |reader: Reader<'_>, writer: Writer<'_>| -> HandlerResult {
        thread::scope(|scope| scope.spawn(move || write(reader, writer)).join().unwrap())
    };
    ends(CloseReason::WriteTimeout, Limits { write: Some(SHORT), ..none() }, both, |_| {});
}

#[test]
fn a_reset_is_found_by_either_half() {
    let (reasons, received) = channel();
    let server = serve(Ends(
        |mut reader: Reader<'_>, mut writer: Writer<'_>| -> HandlerResult {
            let blocked = thread::scope(|scope| {
                let writing = scope.spawn(|| writer.write_all(&vec![0; MUCH]));
                _ = reader.read_line(&mut String::new());
                writing.join().unwrap()
            });
            Ok(blocked?)
        },
        reasons,
    ));
    let client = tcp(server.local_addr());
    (&client).read_exact(&mut [0; 1000]).unwrap();
    reset(client);
    assert_eq!(next(&received), CloseReason::Reset);
}

#[test]
fn a_stop_ends_the_input_behind_what_was_received_and_answers_arrive() {
    let handler = || {
        let (started, is_started) = channel();
        let handler = handler_fn(move |connection| {
            let (reader, mut writer) = connection.split();
            let (lines, received) = channel::<String>();
            thread::scope(|scope| {
                scope.spawn(move || {
                    for line in received {
                        writeln!(writer, "{line}").unwrap();
                    }
                });
                for line in reader.lines() {
                    lines.send(line.unwrap()).unwrap();
                    _ = started.send(());
                }
                drop(lines);
            });
            Ok(())
        });
        (handler, is_started)
    };
    on_every_server((), handler, |server, is_started| {
        let client = Client::of(server);
        // At once: the client's system would keep the second of many small writes back (Nagle).
        client.send((0..100).map(|count| format!("{count}\n")).collect::<String>());
        next(&is_started);
        server.shutdown();
        let answers = String::from_utf8(rest_of(&client)).unwrap();
        assert!(answers.lines().enumerate().all(|(count, line)| line == count.to_string()));
        assert_eq!(answers.lines().count(), 100);
    });
}
