//! Who may come in: how many at a time, how many and how often from one place, and who at all.

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use common::{
    Client, PATIENCE, abstract_name, ask, bounded, echoes, line_of, next, rest_of, tcp, udp, unix,
    wait_until,
};
use parking_lot::Mutex;
use socketserver::ipnet::IpNet;
use socketserver::services::Echo;
use socketserver::*;

/// Echo that knows how many of it run at a time.
fn counting(most: &Arc<AtomicUsize>) -> impl StreamRequestHandler {
    let (most, now) = (most.clone(), AtomicUsize::new(0));
    handler_fn(move |connection| {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let result = StreamRequestHandler::handle(&Echo, connection);
        now.fetch_sub(1, Ordering::SeqCst);
        result
    })
}

/// A client with another address of this machine, all of 127.0.0.0/8 being its own.
fn tcp_from(local: &str, server: &Address) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(local.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&server.socket_addr().unwrap().into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// Whether the server lets this client in.
fn is_served(stream: &TcpStream) -> bool {
    let mut answer = [0; 6];
    let mut stream = stream;
    // A connection that was closed unread may be reset while it is written to or read.
    let read = stream.write_all(b"hello\n").and_then(|()| stream.read_exact(&mut answer));
    read.is_ok() && answer == *b"hello\n"
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

// How many.

#[test]
fn those_over_the_limit_wait_in_the_backlog_until_somebody_leaves() {
    let _bound = bounded();
    let threads = Threading::new().max_threads(2);
    for builder in [
        ThreadingTcpServer::builder().max_connections(2),
        ThreadingTcpServer::builder().mixin(threads).overload(Overload::Refuse("full".into())),
    ] {
        let most = Arc::new(AtomicUsize::new(0));
        let server = builder.bind("127.0.0.1:0", counting(&most)).unwrap().spawn().unwrap();
        let mut clients: Vec<_> = (0..10).map(|_| tcp(server.local_addr())).collect();
        for mut client in &clients {
            client.write_all(b"hello\n").unwrap();
        }
        assert_eq!(line_of(&clients[1]), "hello");
        for n in 0..10 {
            let client = clients.remove(0);
            if n != 1 {
                assert_eq!(line_of(&client), "hello");
            }
            assert!(server.stats().active <= 2);
        }
        server.stop(PATIENCE);
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }
}

#[test]
fn the_limit_is_exact_however_they_race_for_it() {
    let _bound = bounded();
    for overload in [Overload::Defer, Overload::Refuse("full\n".into())] {
        let most = Arc::new(AtomicUsize::new(0));
        let builder = ThreadingTcpServer::builder().max_connections(3).overload(overload);
        let server = builder.bind("127.0.0.1:0", counting(&most)).unwrap().spawn().unwrap();
        let barrier = Barrier::new(16);
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..50 {
                        let answer = ask(&tcp(server.local_addr()), "hello");
                        assert!(["hello", "full"].contains(&&*answer), "{answer:?}");
                    }
                });
            }
        });
        server.stop(PATIENCE);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}

#[test]
fn who_is_refused_reads_why_whatever_it_sends_before_and_after() {
    let _bound = bounded();
    let why = "the server is full, come again\r\n".repeat(100);
    let builder = ThreadingTcpServer::builder().max_connections(1);
    let builder = builder.overload(Overload::Refuse(why.clone().into()));
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let first = tcp(server.local_addr());
    assert_eq!(ask(&first, "hello"), "hello");
    let clients: Vec<_> = (0..40).map(|_| tcp(server.local_addr())).collect();
    for mut client in &clients {
        client.write_all(b"let me in\n").unwrap();
    }
    wait_until("all are refused", || server.stats().refused == 40);
    for mut client in clients {
        client.write_all(&[b'x'; 10_000]).unwrap();
        client.write_all(b"do let me in\n").unwrap();
        assert_eq!(rest_of(&client), why.as_bytes());
    }
    assert_eq!(server.stats().active, 1);
    drop(first);
    wait_until("there is room again", || server.stats().active == 0);
    echoes(server.local_addr(), "now\n");
}

#[test]
fn more_are_refused_than_can_be_kept_until_they_have_read_it() {
    let _bound = bounded();
    let descriptors = |server: &ServerHandle| {
        let before = common::open_descriptors();
        let clients: Vec<_> = (0..300).map(|_| tcp(server.local_addr())).collect();
        wait_until("all are refused", || server.stats().refused == 300);
        (common::open_descriptors() - before).saturating_sub(clients.len())
    };
    let builder = ThreadingTcpServer::builder().max_connections(1);
    let builder = builder.overload(Overload::Refuse("full".into()));
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let first = tcp(server.local_addr());
    assert_eq!(ask(&first, "hello"), "hello");
    // Other tests of this program come and go meanwhile, with some descriptors each.
    let kept = descriptors(&server);
    assert!(kept < 250, "{kept} refused connections are kept open");
    // And the others are served as ever.
    assert_eq!(ask(&first, "still here"), "still here");
}

#[test]
fn limits_are_raised_and_lowered_while_serving() {
    let _bound = bounded();
    let builder = ThreadingTcpServer::builder().max_connections(1);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let first = tcp(server.local_addr());
    assert_eq!(ask(&first, "first"), "first");
    let mut second = tcp(server.local_addr());
    second.write_all(b"second\n").unwrap();
    assert_eq!(server.stats().accepted, 1);
    server.set_max_connections(2);
    assert_eq!((line_of(&second).as_str(), server.max_connections()), ("second", 2));
    // Lowered under what there is: both stay, and nobody comes in before both have left.
    server.set_max_connections(1);
    let mut third = tcp(server.local_addr());
    third.write_all(b"third\n").unwrap();
    assert_eq!([ask(&first, "a"), ask(&second, "b")], ["a", "b"]);
    drop(first);
    wait_until("one has left", || server.stats().active == 1);
    assert_eq!((ask(&second, "c").as_str(), server.stats().accepted), ("c", 2));
    drop(second);
    assert_eq!(line_of(&third), "third");
}

#[test]
fn a_suspended_server_leaves_newcomers_waiting_and_serves_those_it_has() {
    let _bound = bounded();
    common::on_every_stream_server(Echo, (), |server| {
        let first = Client::of(server);
        assert_eq!(ask(&first, "hello"), "hello");
        server.suspend();
        assert!(server.is_suspended());
        let newcomer = Client::of(server);
        newcomer.send("waiting\n");
        for _ in 0..20 {
            assert_eq!(ask(&first, "served on"), "served on");
        }
        first.shutdown(std::net::Shutdown::Write);
        assert!(rest_of(&first).is_empty());
        wait_until("the first has left", || server.stats().active == 0);
        assert_eq!(server.stats().accepted, 1);
        server.resume();
        assert_eq!(line_of(&newcomer), "waiting");
        drop(newcomer);
        // Whoever waits when a suspended server is stopped was received, and is answered.
        server.suspend();
        let last = Client::of(server);
        last.send("last\n");
        server.handle().stop(PATIENCE);
        assert_eq!(rest_of(&last), b"last\n");
    });
}

// How many and how often from one place.

#[test]
fn one_peer_may_have_so_many_connections_and_others_theirs() {
    let _bound = bounded();
    let builder = ThreadingTcpServer::builder()
        .max_connections_per_peer(2)
        .overload(Overload::Refuse("too many\n".into()));
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let mut ours: Vec<_> = (0..2).map(|_| tcp_from("127.0.0.2", server.local_addr())).collect();
    assert!(ours.iter().all(is_served));
    for other in ["127.0.0.3", "127.0.0.4", "127.0.0.5"] {
        let third = tcp_from("127.0.0.2", server.local_addr());
        assert_eq!(rest_of(&third), b"too many\n");
        assert!(is_served(&tcp_from(other, server.local_addr())));
    }
    drop(ours.pop());
    wait_until("there is room again", || is_served(&tcp_from("127.0.0.2", server.local_addr())));
    // Raised and lowered while serving.
    server.set_max_connections_per_peer(1);
    assert!(!is_served(&tcp_from("127.0.0.2", server.local_addr())));
    server.set_max_connections_per_peer(None);
    assert!(is_served(&tcp_from("127.0.0.2", server.local_addr())));
    assert!(server.stats().refused >= 4);
}

#[test]
fn ipv4_peers_of_a_dual_stack_server_are_told_apart_by_their_ipv4_addresses() {
    let _bound = bounded();
    let builder = ThreadingTcpServer::builder().dual_stack(true).max_connections_per_peer(1);
    let builder = builder.access(Access::open().deny(net("127.0.0.9/32")));
    let server = builder.bind("[::]:0", Echo).unwrap().spawn().unwrap();
    let server =
        Address::Tcp(SocketAddr::from(([127, 0, 0, 1], server.local_addr().port().unwrap())));
    let clients = ["127.0.0.2", "127.0.0.3"].map(|local| tcp_from(local, &server));
    assert!(clients.iter().all(is_served));
    assert!(!is_served(&tcp_from("127.0.0.2", &server)));
    assert!(!is_served(&tcp_from("127.0.0.9", &server)));
}

#[test]
fn users_of_a_unix_socket_are_peers() {
    let _bound = bounded();
    let builder = ThreadingUnixStreamServer::builder().max_connections_per_peer(1);
    let address = format!("unix:{}", abstract_name());
    let server = builder.bind(&address, Echo).unwrap().spawn().unwrap();
    let first = unix(server.local_addr());
    assert_eq!(ask(&first, "hello"), "hello");
    let mut answer = Vec::new();
    let _ = unix(server.local_addr()).read_to_end(&mut answer);
    assert!(answer.is_empty());
    wait_until("it was refused", || server.stats().refused == 1);
    assert_eq!(ask(&first, "still here"), "still here");
}

#[test]
fn who_connects_too_often_is_refused_and_others_are_not() {
    let _bound = bounded();
    let rate = ConnectionRate { connections: 3, per: Duration::from_secs(3600) };
    let builder = ThreadingTcpServer::builder().connection_rate(rate);
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let served = |local: &str| is_served(&tcp_from(local, server.local_addr()));
    assert_eq!([(); 5].map(|()| served("127.0.0.2")), [true, true, true, false, false]);
    assert!(served("127.0.0.3"));
    // A rate of its own from now on.
    server.set_connection_rate(ConnectionRate { connections: 1, per: Duration::from_secs(3600) });
    assert_eq!([(); 2].map(|()| served("127.0.0.2")), [true, false]);
    server.set_connection_rate(None);
    assert!(served("127.0.0.2"));
    assert_eq!(server.stats().refused, 3);
}

// Who at all.

/// Says who asks, and has been asked.
fn uid() -> impl StreamRequestHandler {
    handler_fn(|connection| Ok(writeln!(connection, "{:?}", connection.peer_uid()?)?))
}

#[test]
fn an_access_list_keeps_peers_out_before_any_hook_sees_them() {
    let _bound = bounded();
    let (sender, seen) = mpsc::channel();
    let sender = Mutex::new(sender);
    let tell = handler_fn(move |connection: &mut Connection| {
        let _ = sender.lock().send(connection.peer_addr().ip());
        StreamRequestHandler::handle(&Echo, connection)
    });
    let access = Access::closed().deny(net("127.0.0.2/32")).allow(net("127.0.0.0/24"));
    let builder = ThreadingTcpServer::builder().access(access);
    let server = builder.bind("127.0.0.1:0", tell).unwrap().spawn().unwrap();
    let served = |local: &str| is_served(&tcp_from(local, server.local_addr()));
    assert_eq!(
        [served("127.0.0.2"), served("127.0.1.1"), served("127.0.0.3")],
        [false, false, true]
    );
    assert_eq!(next(&seen), Some([127, 0, 0, 3].into()));
    assert_eq!((server.stats().denied, server.stats().ended_for(CloseReason::Denied)), (2, 2));
    server.set_access(Access::open());
    assert!(served("127.0.0.2"));
    assert_eq!(next(&seen), Some([127, 0, 0, 2].into()));
}

#[test]
fn an_access_list_goes_for_datagrams_too() {
    let _bound = bounded();
    let builder = ThreadingUdpServer::builder().access(Access::closed());
    let server = builder.bind("127.0.0.1:0", Echo).unwrap().spawn().unwrap();
    let client = udp(server.local_addr());
    client.send(b"denied").unwrap();
    wait_until("it is denied", || server.stats().denied == 1);
    server.set_access(Access::open().deny(net("10.0.0.0/8")));
    client.send(b"allowed").unwrap();
    let mut answer = [0; 10];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"allowed");
}

#[test]
fn unix_peers_are_let_in_by_the_user_they_run_as() {
    let _bound = bounded();
    let me = rustix::process::getuid().as_raw();
    let builder = ThreadingUnixStreamServer::builder()
        .access(Access::closed().deny(Peers::Uid(me + 1)).allow(Peers::Uid(me)));
    let address = format!("unix:{}", abstract_name());
    let server = builder.bind(&address, uid()).unwrap().spawn().unwrap();
    assert_eq!(rest_of(unix(server.local_addr())), format!("Some({me})\n").as_bytes());
    server.set_access(Access::open().deny(Peers::Uid(me)));
    assert!(rest_of(unix(server.local_addr())).is_empty());
    wait_until("it is denied", || server.stats().denied == 1);
    // A TCP peer is nobody's that is known.
    let server = ThreadingTcpServer::bind("127.0.0.1:0", uid()).unwrap().spawn().unwrap();
    assert_eq!(rest_of(tcp(server.local_addr())), b"None\n");
}
