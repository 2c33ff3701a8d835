//! What a stop does with requests that wait to be accepted: it serves all that were there when it
//! began, and no endless stream of new ones.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use socketserver::services::Echo;
use socketserver::transport::{Tcp, UnixStream};
use socketserver::*;

use crate::harness::{Test, tests};
use crate::support::clients::{Client, tcp, udp, unixgram};
use crate::support::servers::{
    both_mixins, flood, long_queue, many_connections, serve_at, serve_with,
};
use crate::support::system::raise_descriptor_limit;
use crate::support::{TIMEOUT, TempDir, abstract_name, next, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    a_stop_serves_all_connections_that_are_queued_at_a_listener_with_a_long_queue,
    a_stop_serves_the_one_connection_that_a_backlog_of_zero_holds,
    a_stop_answers_all_datagrams_that_are_queued_whatever_the_backlog_is_set_to,
    a_stop_answers_all_datagrams_of_a_connected_peer,
    a_stop_ends_although_clients_connect_without_end,
    a_stop_ends_although_datagrams_arrive_without_end,
    a_stop_that_coincides_with_the_start_takes_no_time,
    a_stop_is_brought_forward_although_connections_wait_for_a_place,
];

/// Clients that have sent a line each.
fn waiting_clients(server: &RunningServer, count: usize) -> Vec<Client> {
    let clients: Vec<_> = (0..count).map(|_| Client::of(server)).collect();
    clients.iter().enumerate().for_each(|(n, client)| client.send(format!("{n}\n")));
    clients
}

#[track_caller]
fn are_answered(clients: &[Client]) {
    let answered = clients.iter().enumerate().filter(|(n, client)| {
        // A connection that is not accepted is reset.
        let mut answer = String::new();
        let read = std::io::Read::read_to_string(&mut &**client, &mut answer);
        read.is_ok() && answer == format!("{n}\n")
    });
    assert_eq!(answered.count(), clients.len());
}

fn a_stop_serves_all_connections_that_are_queued_at_a_listener_with_a_long_queue() {
    let directory = TempDir::new();
    let check = |server: RunningServer| {
        server.suspend();
        let clients = waiting_clients(&server, many_connections());
        let report = server.stop(TIMEOUT);
        are_answered(&clients);
        assert!(report.is_clean(), "{report:?}");
    };
    for (n, mixin) in both_mixins().into_iter().enumerate() {
        let listener = long_queue(&SocketAddr::from(([127, 0, 0, 1], 0)).into());
        let builder = Builder::<Tcp, _>::new(mixin);
        check(builder.from_listener(TcpListener::from(listener), Echo).unwrap().spawn().unwrap());

        let listener = long_queue(&SockAddr::unix(directory.join(&n.to_string())).unwrap());
        let [one, many] = both_mixins();
        let builder = Builder::<UnixStream, _>::new(if n == 0 { one } else { many });
        check(builder.from_listener(UnixListener::from(listener), Echo).unwrap().spawn().unwrap());
    }
}

fn a_stop_serves_the_one_connection_that_a_backlog_of_zero_holds() {
    let check = |server: RunningServer| {
        server.suspend();
        let clients = waiting_clients(&server, 1);
        server.stop(TIMEOUT);
        are_answered(&clients);
    };
    for mixin in both_mixins() {
        check(serve_with(TcpServer::builder().mixin(mixin).backlog(0), Echo));
    }
    for mixin in both_mixins() {
        let address = format!("unix:{}", abstract_name());
        check(serve_at(&address, UnixStreamServer::builder().mixin(mixin).backlog(0), Echo));
    }
}

/// A handler that counts its requests.
fn counter(count: &Arc<AtomicUsize>) -> impl DatagramRequestHandler + use<> {
    let count = count.clone();
    datagram_handler_fn(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(())
    })
}

/// How many datagrams the system has dropped because the socket's buffer was full
/// ([proc(5)](https://man7.org/linux/man-pages/man5/proc_net.5.html)).
fn dropped(socket: &Address) -> usize {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let port = format!(":{:04X} ", socket.port().unwrap());
    let row = table.lines().find(|row| row.contains(&port)).unwrap();
    row.split_whitespace().last().unwrap().parse().unwrap()
}

fn a_stop_answers_all_datagrams_that_are_queued_whatever_the_backlog_is_set_to() {
    for mixin in both_mixins() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        SockRef::from(&socket).set_recv_buffer_size(8 << 20).unwrap();
        let count = Arc::default();
        let builder = UdpServer::builder().mixin(mixin).backlog(5);
        let server = builder.from_socket(socket, counter(&count)).unwrap().spawn().unwrap();
        server.suspend();
        let client = udp(server.local_addr());
        // Small ones, of which the buffer holds most, and empty ones.
        for n in 0..3000 {
            client.send(&[b'x'; 40][..n % 41]).unwrap();
        }
        let queued = 3000 - dropped(server.local_addr());
        assert!(queued > 5, "{queued}");
        server.stop(TIMEOUT);
        assert_eq!(count.load(Ordering::SeqCst), queued);
    }
    for mixin in both_mixins() {
        let count = Arc::default();
        let builder = UnixDatagramServer::builder().mixin(mixin).backlog(5);
        let server = serve_at(&abstract_name(), builder, counter(&count));
        server.suspend();
        let client = unixgram(server.local_addr());
        client.set_nonblocking(true).unwrap();
        let queued = (0..3000).take_while(|_| client.send(b"").is_ok()).count();
        assert!(queued > 5, "{queued}");
        server.stop(TIMEOUT);
        assert_eq!(count.load(Ordering::SeqCst), queued);
    }
}

fn a_stop_answers_all_datagrams_of_a_connected_peer() {
    // Linux does not limit how many datagrams of such a peer wait, only how many bytes.
    for mixin in both_mixins() {
        let (socket, client) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let count = Arc::default();
        let builder = UnixDatagramServer::builder().mixin(mixin);
        let server = builder.from_socket(socket, counter(&count)).unwrap().spawn().unwrap();
        server.suspend();
        client.set_nonblocking(true).unwrap();
        let queued = (0..3000).take_while(|_| client.send(b"").is_ok()).count();
        assert!(queued > 20, "{queued}");
        server.stop(TIMEOUT);
        assert_eq!(count.load(Ordering::SeqCst), queued);
    }
}

/// Calls `send` over and over on four threads, until the stop of the server has ended, which does
/// not take long.
fn stops_soon(server: RunningServer, send: impl Fn() + Sync) {
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    send();
                }
            });
        }
        wait_until("it serves", || server.stats().finished > 100);
        let began = Instant::now();
        server.stop(TIMEOUT);
        let took = began.elapsed();
        ended.store(true, Ordering::SeqCst);
        assert!(took < TIMEOUT / 2, "{took:?}");
    });
}

fn a_stop_ends_although_clients_connect_without_end() {
    raise_descriptor_limit();
    // Slower than the clients are.
    let slow = || {
        handler_fn(|connection: &mut Connection| {
            thread::sleep(Duration::from_micros(500));
            Ok(connection.write_all(b"hello\n")?)
        })
    };
    let builder = || TcpServer::builder().backlog(100);
    let server = serve_with(builder(), slow());
    let address = server.local_addr().socket_addr().unwrap();
    stops_soon(server, || {
        let _ = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
    });
    let name = abstract_name();
    let builder = UnixStreamServer::builder().backlog(100);
    let server = serve_at(&format!("unix:{name}"), builder, slow());
    let address = name.strip_prefix('@').map_or(name.clone(), |name| format!("\0{name}"));
    let address = SockAddr::unix(address).unwrap();
    stops_soon(server, || {
        let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        let _ = client.connect(&address);
    });
}

fn a_stop_ends_although_datagrams_arrive_without_end() {
    let slow = || {
        datagram_handler_fn(|_: &mut DatagramRequest| {
            thread::sleep(Duration::from_micros(500));
            Ok(())
        })
    };
    let server = serve_with(UdpServer::builder(), slow());
    let client = udp(server.local_addr());
    stops_soon(server, || _ = client.send(b"more"));

    let server = serve_at(&abstract_name(), UnixDatagramServer::builder(), slow());
    let client = unixgram(server.local_addr());
    client.set_nonblocking(true).unwrap();
    stops_soon(server, || _ = client.send(b"more"));
}

fn a_stop_that_coincides_with_the_start_takes_no_time() {
    // The stop is asked for at any moment of the acceptor's first round.
    for round in 0..4_000 {
        let server = serve_with(TcpServer::builder(), Echo);
        (0..round % 400).for_each(|_| std::hint::spin_loop());
        let began = Instant::now();
        server.stop(TIMEOUT);
        let took = began.elapsed();
        assert!(took < TIMEOUT / 2, "{took:?}");
    }
}

fn a_stop_is_brought_forward_although_connections_wait_for_a_place() {
    let (started, is_started) = mpsc::channel();
    let started = Mutex::new(started);
    let floods = handler_fn(move |connection: &mut Connection| {
        started.lock().send(())?;
        flood(connection)
    });
    let server = serve_with(ThreadingTcpServer::builder().max_connections(1), floods);
    // Neither reads.
    let _clients = [(); 2].map(|()| tcp(server.local_addr()));
    next(&is_started);
    server.shutdown();
    // The stop has all the time that it has by default.
    thread::sleep(Duration::from_millis(100));
    let report = server.stop(Duration::from_millis(500));
    assert_eq!((report.forced, report.stuck.len()), (1, 0), "{report:?}");
}
