//! Which connections are accepted: how many at a time, how many and how often per peer, and from
//! which peers at all.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::ipnet::IpNet;
use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{
    Client, ask, datagram_of, echoes, line_of, rest_of, tcp, tcp_from, udp, unix,
};
use crate::support::servers::{counting_echo, on_every_stream_server, serve, serve_at, serve_with};
use crate::support::{TIMEOUT, abstract_name, next, wait_until};

/// Whether the server accepts this client.
fn is_served(stream: &TcpStream) -> bool {
    let mut answer = [0; 6];
    let mut stream = stream;
    // A connection that the server has closed may be reset while the client writes or reads.
    let read = stream.write_all(b"hello\n").and_then(|()| stream.read_exact(&mut answer));
    read.is_ok() && answer == *b"hello\n"
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

// How many.

/// Ten clients of a server that serves two at a time: the others wait in the backlog, and the next
/// one is served when one has left.
fn serves_two_at_a_time(builder: Builder<transport::Tcp, Threading>) {
    let most = Arc::new(AtomicUsize::new(0));
    let server = serve_with(builder, counting_echo(&most));
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
    server.stop(TIMEOUT);
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

#[test]
fn connections_over_max_connections_wait_in_the_backlog() {
    serves_two_at_a_time(ThreadingTcpServer::builder().max_connections(2));
}

#[test]
fn connections_over_max_threads_wait_in_the_backlog_under_refuse_too() {
    let mixin = Threading::new().max_threads(2);
    let refuse = Overload::Refuse("full".into());
    serves_two_at_a_time(ThreadingTcpServer::builder().mixin(mixin).overload(refuse));
}

#[test]
fn max_connections_is_exact_under_a_race() {
    for overload in [Overload::Defer, Overload::Refuse("full\n".into())] {
        let most = Arc::new(AtomicUsize::new(0));
        let builder = ThreadingTcpServer::builder().max_connections(3).overload(overload);
        let server = serve_with(builder, counting_echo(&most));
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
        server.stop(TIMEOUT);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }
}

#[test]
fn a_refused_client_reads_the_message_whatever_it_sends() {
    let why = "the server is full, come again\r\n".repeat(100);
    let builder = ThreadingTcpServer::builder().max_connections(1);
    let builder = builder.overload(Overload::Refuse(why.clone().into()));
    let server = serve_with(builder, Echo);
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
    wait_until("a place is free", || server.stats().active == 0);
    echoes(server.local_addr(), "now\n");
}

#[test]
fn limits_are_raised_and_lowered_while_serving() {
    let builder = ThreadingTcpServer::builder().max_connections(1);
    let server = serve_with(builder, Echo);
    let first = tcp(server.local_addr());
    assert_eq!(ask(&first, "first"), "first");
    let mut second = tcp(server.local_addr());
    second.write_all(b"second\n").unwrap();
    assert_eq!(server.stats().accepted, 1);
    server.handle().set_max_connections(2);
    assert_eq!((line_of(&second).as_str(), server.handle().max_connections()), ("second", 2));
    // Lowered below the number of connections: both stay, and the third waits until both have left.
    server.handle().set_max_connections(1);
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
fn a_suspended_server_serves_its_connections_and_accepts_others_after_resume() {
    on_every_stream_server(Echo, (), |server| {
        let first = Client::of(server);
        assert_eq!(ask(&first, "hello"), "hello");
        server.suspend();
        assert!(server.handle().is_suspended());
        let waiting = Client::of(server);
        waiting.send("waiting\n");
        for _ in 0..20 {
            assert_eq!(ask(&first, "served on"), "served on");
        }
        first.shutdown(Shutdown::Write);
        assert!(rest_of(&first).is_empty());
        wait_until("the first has left", || server.stats().active == 0);
        assert_eq!(server.stats().accepted, 1);
        server.resume();
        assert_eq!(line_of(&waiting), "waiting");
    });
}

#[test]
fn a_stop_of_a_suspended_server_answers_connections_in_the_backlog() {
    on_every_stream_server(Echo, (), |server| {
        server.suspend();
        let waiting = Client::of(server);
        waiting.send("last\n");
        server.handle().stop(TIMEOUT);
        assert_eq!(rest_of(&waiting), b"last\n");
    });
}

// How many and how often per peer.

#[test]
fn max_connections_per_peer_counts_each_peer_by_itself() {
    let builder = ThreadingTcpServer::builder()
        .max_connections_per_peer(2)
        .overload(Overload::Refuse("too many\n".into()));
    let server = serve_with(builder, Echo);
    let mut held: Vec<_> = (0..2).map(|_| tcp_from("127.0.0.2", server.local_addr())).collect();
    assert!(held.iter().all(is_served));
    for other in ["127.0.0.3", "127.0.0.4", "127.0.0.5"] {
        let third = tcp_from("127.0.0.2", server.local_addr());
        assert_eq!(rest_of(&third), b"too many\n");
        assert!(is_served(&tcp_from(other, server.local_addr())));
    }
    drop(held.pop());
    wait_until("a place is free", || is_served(&tcp_from("127.0.0.2", server.local_addr())));
    // Raised and lowered while serving.
    server.handle().set_max_connections_per_peer(1);
    assert!(!is_served(&tcp_from("127.0.0.2", server.local_addr())));
    server.handle().set_max_connections_per_peer(None);
    assert!(is_served(&tcp_from("127.0.0.2", server.local_addr())));
    assert!(server.stats().refused >= 4);
}

#[test]
fn ipv4_peers_of_a_dual_stack_server_are_counted_by_their_ipv4_addresses() {
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
fn the_peer_of_a_unix_socket_is_its_user() {
    let builder = ThreadingUnixStreamServer::builder().max_connections_per_peer(1);
    let address = format!("unix:{}", abstract_name());
    let server = serve_at(&address, builder, Echo);
    let first = unix(server.local_addr());
    assert_eq!(ask(&first, "hello"), "hello");
    let mut answer = Vec::new();
    let _ = unix(server.local_addr()).read_to_end(&mut answer);
    assert!(answer.is_empty());
    wait_until("it was refused", || server.stats().refused == 1);
    assert_eq!(ask(&first, "still here"), "still here");
}

#[test]
fn connection_rate_counts_each_peer_by_itself() {
    let rate = ConnectionRate { connections: 3, per: Duration::from_secs(3600) };
    let builder = ThreadingTcpServer::builder().connection_rate(rate);
    let server = serve_with(builder, Echo);
    let served = |local: &str| is_served(&tcp_from(local, server.local_addr()));
    assert_eq!([(); 5].map(|()| served("127.0.0.2")), [true, true, true, false, false]);
    assert!(served("127.0.0.3"));
    // A new rate starts anew.
    server
        .handle()
        .set_connection_rate(ConnectionRate { connections: 1, per: Duration::from_secs(3600) });
    assert_eq!([(); 2].map(|()| served("127.0.0.2")), [true, false]);
    server.handle().set_connection_rate(None);
    assert!(served("127.0.0.2"));
    assert_eq!(server.stats().refused, 3);
}

// Which peers at all.

/// Answers with the user of the peer.
fn uid() -> impl StreamRequestHandler {
    handler_fn(|connection| {
        let uid = connection.peer_credentials()?.map(|peer| peer.uid);
        Ok(writeln!(connection, "{uid:?}")?)
    })
}

#[test]
fn an_access_list_denies_peers_before_any_hook_is_called() {
    let (sender, seen) = mpsc::channel();
    let sender = Mutex::new(sender);
    let records = handler_fn(move |connection: &mut Connection| {
        let _ = sender.lock().send(connection.peer_addr().ip());
        StreamRequestHandler::handle(&Echo, connection)
    });
    let access = Access::closed().deny(net("127.0.0.2/32")).allow(net("127.0.0.0/24"));
    let builder = ThreadingTcpServer::builder().access(access);
    let server = serve_with(builder, records);
    let served = |local: &str| is_served(&tcp_from(local, server.local_addr()));
    assert_eq!(
        [served("127.0.0.2"), served("127.0.1.1"), served("127.0.0.3")],
        [false, false, true]
    );
    assert_eq!(next(&seen), Some([127, 0, 0, 3].into()));
    assert_eq!((server.stats().denied, server.stats().ended_for(CloseReason::Denied)), (2, 2));
    server.handle().set_access(Access::open());
    assert!(served("127.0.0.2"));
    assert_eq!(next(&seen), Some([127, 0, 0, 2].into()));
}

#[test]
fn an_access_list_holds_for_datagrams_too() {
    let builder = ThreadingUdpServer::builder().access(Access::closed());
    let server = serve_with(builder, Echo);
    let client = udp(server.local_addr());
    client.send(b"denied").unwrap();
    wait_until("it is denied", || server.stats().denied == 1);
    server.handle().set_access(Access::open().deny(net("10.0.0.0/8")));
    client.send(b"allowed").unwrap();
    assert_eq!(datagram_of(|buffer| client.recv(buffer)), b"allowed");
}

#[test]
fn an_access_list_for_a_unix_socket_is_of_users() {
    let me = rustix::process::getuid().as_raw();
    let builder = ThreadingUnixStreamServer::builder()
        .access(Access::closed().deny(Peers::Uid(me + 1)).allow(Peers::Uid(me)));
    let address = format!("unix:{}", abstract_name());
    let server = serve_at(&address, builder, uid());
    assert_eq!(rest_of(unix(server.local_addr())), format!("Some({me})\n").as_bytes());
    server.handle().set_access(Access::open().deny(Peers::Uid(me)));
    assert!(rest_of(unix(server.local_addr())).is_empty());
    wait_until("it is denied", || server.stats().denied == 1);
    // The user of a TCP peer is unknown.
    let server = serve(uid());
    assert_eq!(rest_of(tcp(server.local_addr())), b"None\n");
}
