//! Descriptors that travel with the bytes of a Unix socket.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::channel;

use parking_lot::Mutex;
use rustix::io::{FdFlags, fcntl_getfd};
use socketserver::*;

use crate::mixins::all_mixins;
use crate::support::clients::tcp;
use crate::support::servers::{answers, serve, serve_at};
use crate::support::{Gate, TIMEOUT, abstract_name, next, wait_until};

/// Runs a test with a client of a Unix server, under each mixin.
fn on_each_mixin<H: StreamRequestHandler>(
    handler: impl Fn() -> H,
    test: impl Fn(&mut Connection, &RunningServer),
) {
    for (_, mixin) in all_mixins() {
        let address = format!("unix:{}", abstract_name());
        let server = serve_at(&address, UnixStreamServer::builder().mixin(mixin), handler());
        let mut client = server.handle().connect(address, TIMEOUT).unwrap();
        client.set_read_timeout(TIMEOUT);
        test(&mut client, &server);
    }
}

/// A pipe that has this in it and its end.
fn with_text(text: &str) -> PipeReader {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader
}

fn text_of(fd: OwnedFd) -> io::Result<String> {
    assert!(fcntl_getfd(&fd)?.contains(FdFlags::CLOEXEC));
    io::read_to_string(File::from(fd))
}

fn line_of(client: &mut Connection) -> String {
    let mut line = String::new();
    client.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

/// Answers a line, a number, with the texts of so many descriptors.
fn texts() -> impl StreamRequestHandler {
    handler_fn(|connection| {
        connection.receive_fds(4)?;
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            let count: usize = line.trim_end().parse()?;
            for _ in 0..count {
                let text = text_of(connection.next_fd().ok_or("too few")?)?;
                write!(connection, "{text},")?;
            }
            writeln!(connection)?;
            line.clear();
        }
        assert!(connection.next_fd().is_none());
        Ok(())
    })
}

#[test]
fn descriptors_come_with_their_bytes_and_in_their_order() {
    on_each_mixin(texts, |client, _| {
        let [one, two, three] = ["one", "two", "three"].map(with_text);
        client.write_all(b"0\n").unwrap();
        client.send_fds(b"1\n", &[one.as_fd()]).unwrap();
        client.write_all(b"0\n").unwrap();
        client.send_fds(b"2", &[two.as_fd(), three.as_fd()]).unwrap();
        client.send_fds(b"\n0\n", &[]).unwrap();
        let answers: Vec<_> = (0..5).map(|_| line_of(client)).collect();
        assert_eq!(answers, ["", "one,", "", "two,three,", ""]);
        // Later ones, when the queue is empty again.
        for _ in 0..10 {
            let [one, two] = ["one", "two"].map(with_text);
            client.send_fds(b"2\n", &[one.as_fd(), two.as_fd()]).unwrap();
            assert_eq!(line_of(client), "one,two,");
        }
    });
}

/// All of this is in the server's socket before it reads.
#[test]
fn a_read_that_reads_ahead_loses_no_descriptor() {
    let gate = Gate::default();
    let waits = |gate: Gate| {
        handler_fn(move |connection| {
            gate.pass();
            texts().handle(connection)
        })
    };
    on_each_mixin(
        || waits(gate.clone()),
        |client, _| {
            gate.close();
            let files = ["a", "b", "c", "d"].map(with_text);
            client.write_all(b"0\n0\n").unwrap();
            for file in &files {
                client.send_fds(b"1\n0\n", &[file.as_fd()]).unwrap();
            }
            gate.open();
            let answers: Vec<_> = (0..10).map(|_| line_of(client)).collect();
            assert_eq!(answers, ["", "", "a,", "", "b,", "", "c,", "", "d,", ""]);
        },
    );
}

/// A pipe whose reader sees its end when no descriptor of the writer is left.
fn watched() -> (PipeReader, PipeWriter) {
    pipe().unwrap()
}

#[test]
fn descriptors_that_the_handler_does_not_want_are_closed() {
    let echo = || {
        answers(|line, connection| {
            assert!(connection.next_fd().is_none());
            Ok(writeln!(connection, "{line}")?)
        })
    };
    on_each_mixin(echo, |client, _| {
        let (mut reader, writer) = watched();
        client.send_fds(b"hello\n", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(line_of(client), "hello");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn descriptors_that_are_not_taken_are_closed_with_the_connection() {
    let ignores = || {
        answers(|line, connection| {
            connection.receive_fds(1)?;
            Ok(writeln!(connection, "{line}")?)
        })
    };
    on_each_mixin(ignores, |client, _| {
        client.write_all(b"hello\n").unwrap();
        assert_eq!(line_of(client), "hello");
        let (mut reader, writer) = watched();
        client.send_fds(b"hello\n", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(line_of(client), "hello");
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    });
}

#[test]
fn more_descriptors_than_the_limit_end_the_connection() {
    // At once, and one after the other.
    for messages in [&[3][..], &[253], &[1, 1, 1], &[2, 1]] {
        let (sender, ended) = channel();
        let sender = Mutex::new(sender);
        let reads = || {
            let sender = Mutex::new(sender.lock().clone());
            handler_fn(move |connection| {
                connection.receive_fds(2)?;
                let error = io::copy(connection, &mut io::sink()).unwrap_err();
                let limit = Error::of(&error);
                assert!(matches!(limit, Some(Error::TooManyDescriptors { limit: 2, .. })));
                let _ = sender.lock().send(error.kind());
                Err(error.into())
            })
        };
        on_each_mixin(reads, |client, server| {
            let (mut reader, writer) = watched();
            for count in messages {
                let fds = vec![writer.as_fd(); *count];
                client.send_fds(b"!", &fds).unwrap();
            }
            drop(writer);
            assert_eq!(next(&ended), ErrorKind::InvalidData);
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(reader.read(&mut [0]).unwrap(), 0);
            let ended = || server.stats().ended_for(CloseReason::Limit);
            wait_until("it is counted", || ended() == 1);
        });
    }
}

/// More bytes than the socket takes at once, to a client that reads late.
#[test]
fn descriptors_are_sent_once_and_after_the_output_so_far() {
    const LENGTH: usize = 3_000_000;
    let sends = || {
        handler_fn(|connection| {
            let file = with_text("text");
            writeln!(connection, "before")?;
            connection.send_fds(&vec![b'x'; LENGTH], &[file.as_fd()])?;
            writeln!(connection, "after")?;
            Ok(())
        })
    };
    on_each_mixin(sends, |client, _| {
        client.receive_fds(100).unwrap();
        let mut before = [0; 7];
        client.read_exact(&mut before).unwrap();
        assert_eq!(&before, b"before\n");
        let mut bytes = vec![0; LENGTH];
        client.read_exact(&mut bytes[..1]).unwrap();
        assert_eq!(text_of(client.next_fd().unwrap()).unwrap(), "text");
        client.read_exact(&mut bytes[1..]).unwrap();
        assert!(bytes.iter().all(|byte| *byte == b'x'));
        assert_eq!(line_of(client), "after");
        assert!(client.next_fd().is_none());
    });
}

#[test]
fn both_halves_pass_descriptors() {
    let passes_on = || {
        handler_fn(|connection| {
            connection.receive_fds(1)?;
            let (mut reader, mut writer) = connection.split();
            let mut byte = [0];
            while reader.read(&mut byte)? > 0 {
                let fd = reader.next_fd().ok_or("none")?;
                writer.write_all(b"=")?;
                writer.send_fds(&byte, &[fd.as_fd()])?;
            }
            Ok(())
        })
    };
    on_each_mixin(passes_on, |client, _| {
        client.receive_fds(1).unwrap();
        for text in ["one", "two"] {
            client.send_fds(b"!", &[with_text(text).as_fd()]).unwrap();
            let mut answer = [0; 2];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"=!");
            assert_eq!(text_of(client.next_fd().unwrap()).unwrap(), text);
        }
    });
}

/// The one worker serves another client meanwhile.
#[cfg(feature = "fibers")]
#[test]
fn a_fiber_that_waits_for_descriptors_holds_up_no_other() {
    let address = format!("unix:{}", abstract_name());
    let builder = UnixStreamServer::builder().mixin(Fibers::new().workers(1));
    let server = serve_at(&address, builder, texts());
    let [mut waiting, mut other] =
        [(); 2].map(|()| server.handle().connect(&*address, TIMEOUT).unwrap());
    for text in ["one", "two"] {
        for client in [&mut waiting, &mut other] {
            // The message is not whole.
            client.send_fds(b"1", &[with_text(text).as_fd()]).unwrap();
        }
        for client in [&mut other, &mut waiting] {
            client.write_all(b"\n").unwrap();
            assert_eq!(line_of(client), format!("{text},"));
        }
    }
}

#[test]
fn other_connections_pass_no_descriptors() {
    let file = File::open("/dev/null").unwrap();
    let refuses = |connection: &mut Connection| {
        let fds = [file.as_fd()];
        let errors = [connection.receive_fds(1), connection.send_fds(b"!", &fds)];
        for error in errors.map(Result::unwrap_err) {
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(matches!(Error::of(&error), Some(Error::Unsupported { .. })));
        }
        assert!(connection.next_fd().is_none());
    };
    refuses(Connection::in_memory("").as_mut());
    let server = serve(answers(|line, connection| Ok(writeln!(connection, "{line}")?)));
    drop(tcp(server.local_addr()));
    let mut client = server.handle().connect(server.local_addr(), TIMEOUT).unwrap();
    refuses(&mut client);
    client.write_all(b"hello\n").unwrap();
    assert_eq!(line_of(&mut client), "hello");
}

/// The process at the other end is known all the same.
#[cfg(feature = "tls")]
#[test]
fn a_unix_socket_under_tls_passes_no_descriptors() {
    use crate::tls_clients::{self, client_config, connect_at, end_output, server_config};

    let refuses = answers(|_, connection| {
        let fds = [connection.receive_fds(1), connection.send_fds(b"!", &[])];
        let kinds = fds.map(|result| result.map_err(|error| error.kind()));
        let pid = connection.peer_credentials()?.and_then(|peer| peer.pid);
        Ok(writeln!(connection, "{kinds:?} {pid:?}")?)
    });
    let builder = ThreadingUnixStreamServer::builder().tls(server_config());
    let server = serve_at(&format!("unix:{}", abstract_name()), builder, refuses);
    let mut client = connect_at(server.local_addr(), client_config(None), "localhost");
    let answer = tls_clients::ask(&mut client, "hello");
    let pid = Some(std::process::id());
    assert_eq!(answer, format!("[Err(Unsupported), Err(Unsupported)] {pid:?}"));
    end_output(&mut client);
}

#[test]
fn what_cannot_be_sent_is_refused_and_breaks_nothing() {
    on_each_mixin(texts, |client, _| {
        let file = with_text("text");
        let many = vec![file.as_fd(); 254];
        for (bytes, fds) in [(&b""[..], &many[..1]), (b"", &[]), (b"!", &many)] {
            let error = client.send_fds(bytes, fds).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
        client.send_fds(b"1\n", &[file.as_fd()]).unwrap();
        assert_eq!(line_of(client), "text,");
    });
}
