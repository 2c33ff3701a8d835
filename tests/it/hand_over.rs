//! Restarts that lose no client: a server hands its listeners over to another one, which is in the same
//! process here.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::InheritedSocket;
use socketserver::*;

use crate::every_server::mixins;
use crate::support::clients::{ask, echoes, line_of, tcp, unix};
use crate::support::servers::serve_at;
use crate::support::{TIMEOUT, TempDir, bound_test, wait_until};
#[cfg(feature = "tls")]
use crate::tls_clients;

/// Has a server hand over while `next` starts its successor.
fn restart(
    old: &RunningServer,
    path: &Path,
    next: impl FnOnce() -> RunningServer,
) -> RunningServer {
    let (handed_over, next) = while_handing_over(old, path, next);
    handed_over.unwrap();
    next
}

/// Has a server hand over, does this once it listens at the path, and returns what has come of both.
fn while_handing_over<R>(
    server: &RunningServer,
    path: &Path,
    act: impl FnOnce() -> R,
) -> (Result<()>, R) {
    thread::scope(|scope| {
        let handing_over = scope.spawn(|| server.handle().hand_over(path));
        wait_until("it listens at the path", || path.exists());
        let acted = act();
        (handing_over.join().unwrap(), acted)
    })
}

fn stop(server: RunningServer) {
    let report = server.stop(TIMEOUT);
    assert!(report.is_clean(), "{report:?}");
}

/// Restarts a server fifty times while four clients ask one thing after the other.
fn restarts<T, M>(
    address: &str,
    builder: impl Fn() -> Builder<T, M>,
    ask: impl Fn(&Address, &str) -> String + Sync,
) where
    T: Transport + TryFrom<InheritedSocket, Error = Error>,
    M: Spawnable,
    Echo: IntoHandler<T::Handler>,
{
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let start = || serve_at(address, builder().take_over(&path), Echo);
    let mut server = start();
    let address = server.local_addr().clone();
    let (over, answered) = (AtomicBool::new(false), [const { AtomicU32::new(0) }; 4]);
    thread::scope(|scope| {
        for (client, answered) in answered.iter().enumerate() {
            let (over, address, ask) = (&over, &address, &ask);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let number = answered.load(Ordering::Relaxed);
                    let line = format!("{number} of {client}");
                    assert_eq!(ask(address, &line), line);
                    answered.store(number + 1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..50 {
            let before: Vec<_> = answered.iter().map(|n| n.load(Ordering::Relaxed)).collect();
            let next = restart(&server, &path, start);
            assert_eq!(next.local_addr(), &address);
            stop(std::mem::replace(&mut server, next));
            wait_until("each client has an answer of the new server", || {
                answered.iter().zip(&before).all(|(n, before)| n.load(Ordering::Relaxed) > *before)
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    stop(server);
    assert!(!path.exists());
}

#[test]
fn fifty_restarts_lose_no_client_of_tcp() {
    for mixin in ["sequential", "threading", "fibers"] {
        let builder = || TcpServer::builder().mixin(named(mixin));
        restarts("127.0.0.1:0", builder, |address, line| ask(&tcp(address), line));
    }
}

fn named(mixin: &str) -> Box<dyn Spawnable> {
    let mut mixins = mixins();
    match mixin {
        "sequential" => mixins.swap_remove(0),
        "threading" => mixins.swap_remove(1),
        _ => mixins.pop().unwrap(),
    }
}

#[test]
fn fifty_restarts_lose_no_client_of_a_unix_socket() {
    let directory = TempDir::new();
    let path = directory.join("socket");
    let address = format!("unix:{}", path.display());
    restarts(&address, ThreadingUnixStreamServer::builder, |address, line| {
        ask(&unix(address), line)
    });
    assert!(!path.exists(), "the last one removes the file");
}

#[cfg(feature = "tls")]
#[test]
fn fifty_restarts_lose_no_client_over_tls() {
    let builder = || ThreadingTcpServer::builder().tls(tls_clients::server_config());
    restarts("127.0.0.1:0", builder, |address, line| {
        let config = tls_clients::client_config(None);
        let mut client = tls_clients::connect_at(address, config, "localhost");
        tls_clients::ask(&mut client, line)
    });
}

#[test]
fn fifty_restarts_lose_no_datagram() {
    let ask = |address: &Address, line: &str| {
        echoes(address, line);
        line.to_owned()
    };
    restarts("127.0.0.1:0", UdpServer::builder, ask);
    let directory = TempDir::new();
    let address = format!("unixgram:{}", directory.join("socket").display());
    restarts(&address, ThreadingUnixDatagramServer::builder, ask);
}

#[test]
fn open_connections_are_answered_by_the_old_server_until_they_end() {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let start = || serve_at("127.0.0.1:0", ThreadingTcpServer::builder().take_over(&path), Echo);
    let old = start();
    let client = tcp(old.local_addr());
    assert_eq!(ask(&client, "before"), "before");
    let waiting = tcp(old.local_addr());
    (&waiting).write_all(b"sent\n").unwrap();
    let new = restart(&old, &path, start);
    assert!(old.handle().is_stopping());
    // What was received is answered, and then the connection ends.
    assert_eq!(line_of(&waiting), "sent");
    assert_eq!(line_of(&client), "");
    assert_eq!(ask(&tcp(new.local_addr()), "after"), "after");
    stop(old);
    stop(new);
}

#[test]
fn a_client_that_has_just_connected_is_answered_by_the_old_server() {
    let directory = TempDir::new();
    let (path, socket) = (directory.join("hand-over"), directory.join("socket"));
    for mixin in ["sequential", "threading", "fibers"] {
        let start = || {
            let builder = UnixStreamServer::builder().mixin(named(mixin)).take_over(&path);
            serve_at(socket.to_str().unwrap(), builder, Echo)
        };
        let old = start();
        let new_client = unix(old.local_addr());
        wait_until("it is accepted", || old.handle().connections().len() == 1);
        let new = restart(&old, &path, start);
        if mixin != "sequential" {
            wait_until("the stop has begun", || old.handle().listeners().is_empty());
        }
        // Its read side being shut, this would fail with EPIPE.
        assert_eq!(ask(&new_client, "first"), "first", "{mixin}");
        assert_eq!(line_of(&new_client), "", "{mixin}");
        let report = old.stop(TIMEOUT);
        assert_eq!((report.drained, report.forced), (1, 0), "{mixin}");
        stop(new);
    }
}

#[test]
fn all_listeners_are_handed_over_and_new_ones_are_bound() {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let socket = directory.join("socket");
    let builder = || {
        let builder = ThreadingTcpServer::builder().also("127.0.0.1:0").also(&socket);
        builder.take_over(&path)
    };
    let old = serve_at("localhost:0", builder(), Echo);
    old.handle().listen("127.0.0.2:0").unwrap();
    let addresses = |server: &RunningServer| {
        let listeners = server.handle().listeners();
        listeners.into_iter().map(|listener| listener.local_addr).collect::<Vec<_>>()
    };
    let before = addresses(&old);
    let new = restart(&old, &path, || serve_at("localhost:0", builder().also("127.0.0.3:0"), Echo));
    stop(old);
    let after = addresses(&new);
    assert_eq!(after[..before.len()], before);
    assert_eq!(after.len(), before.len() + 1);
    for address in after {
        echoes(address, "hello\n");
    }
    // Once more: what each was bound for is known on.
    let third = restart(&new, &path, || serve_at("localhost:0", builder(), Echo));
    assert_eq!(third.handle().listeners().len(), before.len() + 1);
    stop(new);
    assert!(socket.exists());
    stop(third);
    assert!(!socket.exists());
}

#[cfg(feature = "tls")]
#[test]
fn a_plain_listener_stays_plain() {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let builder = || {
        let builder = ThreadingTcpServer::builder().tls(tls_clients::server_config());
        builder.also_plain("127.0.0.2:0").take_over(&path)
    };
    let old = serve_at("127.0.0.1:0", builder(), Echo);
    let new = restart(&old, &path, || serve_at("127.0.0.1:0", builder(), Echo));
    stop(old);
    let listeners = new.handle().listeners();
    assert_eq!(listeners.iter().map(|l| l.is_tls).collect::<Vec<_>>(), [true, false]);
    assert_eq!(ask(&tcp(&listeners[1].local_addr), "hello"), "hello");
    let mut client = tls_clients::connect(&new);
    assert_eq!(tls_clients::ask(&mut client, "hello"), "hello");
    drop(client);
    stop(new);
}

#[test]
fn a_socket_that_was_bound_elsewhere_keeps_its_file() {
    let directory = TempDir::new();
    let (path, socket) = (directory.join("hand-over"), directory.join("socket"));
    let listener = UnixListener::bind(&socket).unwrap();
    let server = ThreadingUnixStreamServer::from_listener(listener, Echo).unwrap();
    let old = server.spawn().unwrap();
    let new = restart(&old, &path, || {
        let builder = ThreadingUnixStreamServer::builder().take_over(&path);
        builder.from_predecessor(Echo).unwrap().spawn().unwrap()
    });
    stop(old);
    assert_eq!(ask(&unix(new.local_addr()), "hello"), "hello");
    stop(new);
    assert!(socket.exists());
    let builder = ThreadingUnixStreamServer::builder().take_over(&path);
    let error = builder.from_predecessor(Echo).unwrap_err();
    assert_eq!(error.to_string(), "not handed over: there is no predecessor");
}

/// A server that is asked to hand over, and what came of it.
fn hands_over<R>(
    builder: Builder<transport::Tcp, Threading>,
    meanwhile: impl FnOnce(&RunningServer, &Path) -> R,
) -> (Result<()>, R, RunningServer) {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let server = serve_at("127.0.0.1:0", builder, Echo);
    let (result, value) = while_handing_over(&server, &path, || meanwhile(&server, &path));
    assert!(!path.exists());
    (result, value, server)
}

#[track_caller]
fn goes_on(server: RunningServer) {
    assert!(!server.handle().is_stopping());
    assert_eq!(ask(&tcp(server.local_addr()), "hello"), "hello");
    stop(server);
}

fn builder() -> Builder<transport::Tcp, Threading> {
    ThreadingTcpServer::builder()
}

#[test]
fn a_successor_that_cannot_serve_changes_nothing() {
    let (result, error, server) = hands_over(builder(), |_, path| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let in_use = listener.local_addr().unwrap();
        let error = builder().also(in_use).take_over(path).bind("127.0.0.1:0", Echo).unwrap_err();
        assert!(matches!(error, Error::Bind { .. }), "{error}");
        error.to_string()
    });
    let result = result.unwrap_err().to_string();
    assert_eq!(result, format!("not handed over: the successor has failed: {error}"));
    goes_on(server);

    // It is never asked to serve.
    let (result, (), server) = hands_over(builder(), |server, path| {
        let next = builder().take_over(path).bind("127.0.0.1:0", Echo).unwrap();
        assert_eq!(next.local_addr(), server.local_addr());
    });
    let expected = "the successor has failed: it was dropped before it served";
    assert_eq!(result.unwrap_err().to_string(), format!("not handed over: {expected}"));
    goes_on(server);

    // It serves datagrams.
    let (result, (), server) = hands_over(builder(), |_, path| {
        let error = UdpServer::builder().take_over(path).bind("127.0.0.1:0", Echo).unwrap_err();
        assert!(matches!(error, Error::HandOver { .. }), "{error}");
    });
    assert!(result.unwrap_err().to_string().contains("of another kind"));
    goes_on(server);
}

#[test]
fn the_file_of_a_unix_socket_outlives_a_successor_that_fails() {
    let directory = TempDir::new();
    let (path, socket) = (directory.join("hand-over"), directory.join("socket"));
    let builder = || ThreadingUnixStreamServer::builder().take_over(&path);
    let address = format!("unix:{}", socket.display());
    let server = serve_at(&address, builder(), Echo);
    let start_and_drop = || drop(builder().bind(&*address, Echo).unwrap());
    while_handing_over(&server, &path, start_and_drop).0.unwrap_err();
    assert_eq!(ask(&unix(server.local_addr()), "hello"), "hello");
    stop(server);
    assert!(!socket.exists());
}

#[test]
fn no_successor_within_the_timeout_is_an_error() {
    let timeout = Duration::from_millis(100);
    let builder = || builder().hand_over_timeout(timeout);
    let begin = Instant::now();
    let (result, (), server) = hands_over(builder(), |_, _| ());
    let expected = "not handed over: no successor has become ready in time";
    assert_eq!(result.unwrap_err().to_string(), expected);
    assert!(begin.elapsed() >= timeout);
    goes_on(server);

    // One that has the listeners, and is never ready, is told so.
    let (result, answer, server) = hands_over(builder(), |_, path| {
        let mut successor = greet(path);
        let mut answer = String::new();
        successor.read_to_string(&mut answer).unwrap();
        answer
    });
    assert_eq!(result.unwrap_err().to_string(), expected);
    assert!(answer.ends_with(&format!("kept {expected}\n")), "{answer}");
    goes_on(server);

    // One that is ready too late fails.
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let old = serve_at("127.0.0.1:0", builder(), Echo);
    let (handed_over, next) = while_handing_over(&old, &path, || {
        self::builder().take_over(&path).bind("127.0.0.1:0", Echo).unwrap()
    });
    handed_over.unwrap_err();
    let error = next.spawn().unwrap_err();
    assert!(error.to_string().contains("the predecessor keeps its listeners"), "{error}");
    goes_on(old);
}

#[test]
fn listeners_are_taken_over_where_a_server_binds() {
    let directory = TempDir::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = builder().take_over(directory.join("hand-over"));
    let error = builder.from_listener(listener, Echo).unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error}");
}

#[test]
fn a_stop_ends_the_wait_for_a_successor() {
    let (result, (), server) = hands_over(builder(), |server, _| server.handle().shutdown());
    assert!(matches!(result, Err(Error::ShutDown)), "{result:?}");
    assert!(matches!(server.handle().hand_over("/nowhere"), Err(Error::ShutDown)));
    stop(server);
}

/// Does what a successor does first.
fn greet(path: &Path) -> UnixStream {
    bound_test();
    let mut successor = UnixStream::connect(path).unwrap();
    successor.set_read_timeout(Some(TIMEOUT)).unwrap();
    successor.write_all(b"socketserver hand-over 1\n").unwrap();
    successor
}

#[test]
fn others_at_the_socket_are_sent_away() {
    let (result, new, old) = hands_over(builder(), |old, path| {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let mut odd = UnixStream::connect(path).unwrap();
        odd.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let mut answer = String::new();
        odd.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "kept this is \"socketserver hand-over 1\"\n");
        drop(UnixStream::connect(path).unwrap());
        let endless = UnixStream::connect(path).unwrap();
        let _ = (&endless).write_all(&[b'x'; 100_000]);
        // It has one second.
        let _silent = UnixStream::connect(path).unwrap();
        let new = serve_at("127.0.0.1:0", builder().take_over(path), Echo);
        assert_eq!(new.local_addr(), old.local_addr());
        new
    });
    result.unwrap();
    stop(old);
    goes_on(new);
}

#[test]
fn a_successor_that_dies_changes_nothing() {
    for last_words in ["", "rea", "failed no memory\n", "unready\n", "\u{7}\n"] {
        let (result, (), server) = hands_over(builder(), |_, path| {
            let mut successor = greet(path);
            assert_eq!(line_of(&mut successor), "listeners 1");
            successor.write_all(last_words.as_bytes()).unwrap();
        });
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with("not handed over: the successor has "), "{error}");
        goes_on(server);
    }
}

#[test]
fn a_path_in_use_is_an_error() {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let _other = UnixListener::bind(&path).unwrap();
    let server = serve_at("127.0.0.1:0", builder(), Echo);
    let error = server.handle().hand_over(&path).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }), "{error}");
    goes_on(server);
}

/// Plays a predecessor that says this, with these descriptors; returns what becomes of a successor, and
/// what the successor says.
fn successor_of(text: &str, sockets: &[BorrowedFd<'_>]) -> (Result<RunningServer>, String) {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        let said = scope.spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(TIMEOUT)).unwrap();
            let mut reader = BufReader::new(&stream);
            let mut greeting = String::new();
            reader.read_line(&mut greeting).unwrap();
            assert_eq!(greeting, "socketserver hand-over 1\n");
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !sockets.is_empty() {
                assert!(control.push(SendAncillaryMessage::ScmRights(sockets)));
            }
            let bytes = [std::io::IoSlice::new(text.as_bytes())];
            sendmsg(&stream, &bytes, &mut control, SendFlags::empty()).unwrap();
            let mut said = String::new();
            if text.ends_with('\n') {
                let _ = reader.read_line(&mut said);
            }
            said
        });
        let builder = builder().hand_over_timeout(Duration::from_secs(10)).take_over(&path);
        let server = builder.bind("127.0.0.1:0", Echo).and_then(Server::spawn);
        (server, said.join().unwrap())
    })
}

#[test]
fn malformed_manifests_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let entry = format!("tcp\tdefault\t{address}\t-\n");
    let one = [listener.as_fd()];
    let two = [listener.as_fd(), listener.as_fd()];
    let (unconnected, _other) = UnixStream::pair().unwrap();
    let no_listener = [unconnected.as_fd()];
    for (text, sockets) in [
        (String::new() + "\n", &one[..]),
        ("listeners 1".to_owned(), &one),
        ("listeners 0\n".to_owned(), &[]),
        ("listeners 999\n".to_owned(), &one),
        (format!("listeners 2\n{entry}"), &two),
        (format!("listeners 1\n{entry}"), &[]),
        (format!("listeners 1\n{entry}"), &two),
        (format!("listeners 2\n{entry}{entry}"), &one),
        (format!("listeners 1\n{entry}"), &no_listener),
        (format!("listeners 1\n{}", entry.replace("tcp", "udp")), &one),
        (format!("listeners 1\n{}", entry.replace("127.0.0.1", "127.0.0.2")), &one),
        (format!("listeners 1\n{}", entry.replace('\t', " ")), &one),
        ("x".repeat(10_000), &one),
        ("kept it is mine\n".to_owned(), &[]),
    ] {
        let (server, said) = successor_of(&text, sockets);
        let error = server.map(drop).unwrap_err();
        let is_expected = matches!(error, Error::HandOver { .. } | Error::Inherited { .. });
        assert!(is_expected, "{text:?}: {error:?}");
        assert_eq!(said, "", "{text:?}");
    }
}

#[test]
fn the_listeners_of_a_predecessor_that_dies_are_the_successors() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let text = format!("listeners 1\ntcp\tdefault\t{address}\t127.0.0.1:0\n");
    // It is gone when it hears that the successor is ready.
    let (server, said) = successor_of(&text, &[listener.as_fd()]);
    assert_eq!(said, "ready\n");
    drop(listener);
    let server = server.unwrap();
    assert_eq!(server.local_addr().socket_addr(), Some(address));
    goes_on(server);
}

#[test]
fn without_a_predecessor_a_server_binds() {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let start = || serve_at("127.0.0.1:0", builder().take_over(&path), Echo);
    goes_on(start());
    // Killed, it has left its file.
    drop(UnixListener::bind(&path).unwrap());
    goes_on(start());
    // What is in the way is no socket.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    goes_on(start());
    let builder = builder().take_over(PathBuf::from("/dev/null/x"));
    assert!(matches!(builder.bind("127.0.0.1:0", Echo), Err(Error::HandOver { .. })));
}

#[test]
fn a_server_that_takes_over_serves_by_handle_request_too() {
    let directory = TempDir::new();
    let path = directory.join("hand-over");
    let old = serve_at("127.0.0.1:0", builder(), Echo);
    let (handed_over, next) = while_handing_over(&old, &path, || {
        let builder = TcpServer::builder().take_over(&path).request_timeout(Duration::ZERO);
        let next = builder.bind("127.0.0.1:0", Echo).unwrap();
        assert!(!old.handle().is_stopping());
        assert_eq!(next.handle_request(), Handled::TimedOut);
        next
    });
    handed_over.unwrap();
    stop(old);
    let client = tcp(next.local_addr());
    (&client).write_all(b"hello\n").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(next.handle_request(), Handled::Request);
    assert_eq!(line_of(&client), "hello");
}
