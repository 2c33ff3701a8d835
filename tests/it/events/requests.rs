//! Requests from their start to their end.

use std::thread::sleep;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socketserver::extend::*;
use socketserver::services::Echo;
use socketserver::transport::*;

use super::*;
use crate::mixins::all_mixins;
use crate::support::clients::{Client, ask, round_trip};
use crate::support::servers::{serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name, bound_test};

/// A client sends `hello` to a server at this address, and gets it back.
fn a_request_at<T: Transport>(address: &str, reason: CloseReason)
where
    Echo: IntoHandler<T::Handler>,
{
    for (name, mixin) in all_mixins() {
        bound_test();
        let (observer, told) = teller();
        let builder = Server::<T, Threading>::builder().mixin(mixin).observer(observer);
        let server = serve_at::<T, _, _>(address, builder, Echo);
        let local = server.local_addr().clone();
        assert_eq!(next(&told), Told::Listening(local.clone()));
        assert_eq!(round_trip(&local, b"hello\n"), b"hello\n");
        let Told::Accepted { id, peer, listener } = next(&told) else { panic!("{name}") };
        assert_eq!((id, &listener), (1, &local), "{name}");
        let closed = Told::Closed { id: 1, peer, reason, received: 6, sent: 6 };
        assert_eq!(next(&told), closed, "{name}");
        assert!(server.stop(TIMEOUT).is_clean());
        assert_eq!(next(&told), Told::Stopping);
        assert!(matches!(next(&told), Told::Stopped(report) if report.is_clean()));
        assert!(told.try_recv().is_err(), "{name}: something was told twice");
    }
}

#[test]
fn a_connection_is_accepted_and_closed() {
    a_request_at::<Tcp>("127.0.0.1:0", CloseReason::Eof);
    a_request_at::<UnixStream>(&format!("unix:{}", abstract_name()), CloseReason::Eof);
}

#[test]
fn a_datagram_is_accepted_and_closed() {
    a_request_at::<Udp>("127.0.0.1:0", CloseReason::Completed);
    let address = format!("unixgram:{}", abstract_name());
    a_request_at::<UnixDatagram>(&address, CloseReason::Completed);
}

#[test]
fn each_listener_is_that_of_its_requests() {
    let (observer, told) = teller();
    let name = format!("unix:{}", abstract_name());
    let builder = ThreadingTcpServer::builder().also(&*name).observer(observer);
    let server = serve_with(builder, Echo);
    let addresses: Vec<_> =
        server.handle().listeners().into_iter().map(|listener| listener.local_addr).collect();
    assert!(matches!(next(&told), Told::Listening(_)));
    for address in &addresses {
        round_trip(address, b"hello\n");
        let Told::Accepted { id, listener, .. } = next(&told) else { panic!() };
        assert_eq!(&listener, address);
        next_closed(&told, id);
    }
}

#[test]
fn closed_says_why_a_connection_has_ended() {
    let handler = handler_fn(|connection: &mut Connection| {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        match &*line {
            "fail\n" => Err("as told".into()),
            "panic\n" => std::panic::resume_unwind(Box::new("as told")),
            _ => Ok(()),
        }
    });
    let (observer, told) = teller();
    let server = serve_with(ThreadingTcpServer::builder().observer(observer), handler);
    assert!(matches!(next(&told), Told::Listening(_)));
    for (line, reason) in [
        ("end\n", CloseReason::Completed),
        ("fail\n", CloseReason::Failed),
        ("panic\n", CloseReason::Panicked),
    ] {
        let client = Client::of(&server);
        client.send(line);
        let (id, _) = next_accepted(&told);
        drop(client);
        assert_eq!(next_closed(&told, id), reason);
    }
    let client = Client::of(&server);
    let (id, _) = next_accepted(&told);
    server.handle().disconnect(id.into());
    assert_eq!(next_closed(&told, id), CloseReason::Stopped);
    drop(client);
}

/// Sends the times of each connection.
struct Times(Mutex<Sender<[Duration; 2]>>);

impl Observer for Times {
    fn closed(&self, closed: &Closed<'_>) {
        self.0.lock().send([closed.longest_wait, closed.duration]).unwrap();
    }
}

#[test]
fn the_longest_wait_is_for_the_client_and_at_once() {
    for (name, mixin) in all_mixins() {
        let (sender, times) = channel();
        let builder = TcpServer::builder().mixin(mixin).observer(Times(Mutex::new(sender)));
        let handler = handler_fn(|connection: &mut Connection| {
            let mut line = String::new();
            while connection.read_line(&mut line)? > 0 {
                if line.ends_with("work\n") {
                    // No wait for the client.
                    sleep(Duration::from_millis(400));
                }
                std::io::Write::write_all(connection, b"done\n")?;
            }
            Ok(())
        });
        let server = serve_with(builder, handler);
        let (client, begun) = (Client::of(&server), Instant::now());
        let waits = [60, 150, 60].map(Duration::from_millis);
        for wait in waits {
            // A slow client.
            sleep(wait);
            assert_eq!(ask(&client, "hello"), "done");
        }
        let waited = begun.elapsed();
        assert_eq!(ask(&client, "work"), "done");
        drop(client);
        let [longest, duration] = next(&times);
        let slack = Duration::from_millis(20);
        assert!(longest + slack >= waits[1], "{name}: {longest:?}");
        // On a machine that stalls, a wait may be as long as all of them.
        assert!(longest <= waited + slack, "{name}: {longest:?}, not the work of the handler");
        assert!(duration >= waits.iter().sum(), "{name}: {duration:?}");
        assert!(server.stop(TIMEOUT).is_clean());
    }
}

/// Appends its letter to what is told.
struct Letter(char, std::sync::Arc<Mutex<String>>);

impl Observer for Letter {
    fn accepted(&self, _accepted: &Accepted<'_>) {
        self.1.lock().push(self.0);
    }

    fn closed(&self, _closed: &Closed<'_>) {
        self.1.lock().push(self.0.to_ascii_uppercase());
    }
}

/// Panics without a call of the panic hook.
struct Panics;

impl Observer for Panics {
    fn accepted(&self, _accepted: &Accepted<'_>) {
        std::panic::resume_unwind(Box::new("as told"));
    }

    fn closed(&self, _closed: &Closed<'_>) {
        std::panic::resume_unwind(Box::new("as told"));
    }

    fn stopping(&self) {
        std::panic::resume_unwind(Box::new("as told"));
    }
}

#[test]
fn several_observers_are_told_in_their_order_whichever_panics() {
    for (name, mixin) in all_mixins() {
        let letters = std::sync::Arc::<Mutex<String>>::default();
        let builder = TcpServer::builder()
            .mixin(mixin)
            .observer(Letter('a', letters.clone()))
            .observer(Panics)
            .observer(Letter('b', letters.clone()));
        let server = serve_with(builder, Echo);
        let handle = server.handle();
        for _ in 0..2 {
            round_trip(server.local_addr(), b"hello\n");
            crate::support::wait_until("closed", || letters.lock().len() % 4 == 0);
        }
        assert!(server.stop(TIMEOUT).is_clean(), "{name}");
        assert_eq!(*letters.lock(), "abABabAB", "{name}");
        assert_eq!(handle.stats().observer_panics, 5, "{name}");
        let mut metrics = Vec::new();
        handle.stats().write_prometheus(&mut metrics).unwrap();
        let metrics = String::from_utf8(metrics).unwrap();
        assert!(metrics.contains("\nsocketserver_observer_panics_total 5\n"), "{metrics}");
    }
}
