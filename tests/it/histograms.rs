//! How long requests took, and how much they have received and sent, as the server counts it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use socketserver::services::Echo;
use socketserver::*;

use crate::support::clients::{Client, line_of, rest_of, tcp, udp};
use crate::support::servers::{flood, on_every_stream_server, serve, serve_with};
use crate::support::wait_until;

/// The counters, when so many requests have run and ended.
#[track_caller]
fn after(server: &RunningServer, requests: u64) -> Stats {
    wait_until("all have ended", || server.stats().finished == requests);
    let stats = server.stats();
    for histogram in [&stats.durations, &stats.bytes_received, &stats.bytes_sent] {
        assert_eq!(histogram.count(), requests, "{stats:?}");
    }
    stats
}

/// How many values are at most so large.
#[track_caller]
fn at_most(histogram: &Histogram, bound: u64) -> u64 {
    histogram.buckets().find(|bucket| bucket.0 == bound).expect("a bound").1
}

#[test]
fn what_a_handler_reads_and_what_is_sent_is_counted() {
    on_every_stream_server(Echo, (), |server| {
        for length in [1, 1000, 100_000usize] {
            let client = Client::of(server);
            let lines: Vec<u8> = b"123456789\n".iter().copied().cycle().take(length).collect();
            thread::scope(|scope| {
                scope.spawn(|| {
                    client.send(&lines);
                    client.shutdown(Shutdown::Write);
                });
                assert!(rest_of(&client) == lines);
            });
        }
        let stats = after(server, 3);
        for bytes in [&stats.bytes_received, &stats.bytes_sent] {
            assert_eq!(bytes.sum(), 101_001);
            let counts = [64, 256, 1024, 4096, 65_536, 262_144].map(|bound| at_most(bytes, bound));
            assert_eq!(counts, [1, 1, 2, 2, 2, 3]);
        }
    });
}

#[test]
fn a_bound_is_in_its_bucket() {
    let server = serve(handler_fn(|connection| {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        Ok(connection.write_all(&vec![b'x'; line.trim().parse()?])?)
    }));
    for length in [64, 65, 256] {
        let mut client = tcp(server.local_addr());
        writeln!(client, "{length}").unwrap();
        assert_eq!(rest_of(client).len(), length);
    }
    let sent = after(&server, 3).bytes_sent;
    assert_eq!([at_most(&sent, 64), at_most(&sent, 256), sent.sum()], [1, 3, 385]);
    let bounds: Vec<u64> = sent.buckets().map(|bucket| bucket.0).collect();
    assert_eq!((bounds.len(), bounds[0], bounds[14]), (15, 64, 16 << 30));
}

#[test]
fn a_request_takes_from_its_acceptance_to_its_end() {
    const TIME: Duration = Duration::from_millis(20);
    on_every_stream_server(Echo, (), |server| {
        let begin = Instant::now();
        let client = Client::of(server);
        client.send("hello\n");
        assert_eq!(line_of(&client), "hello");
        // It is a part of the request.
        thread::sleep(TIME);
        drop(client);
        let (stats, most) = (after(server, 1), begin.elapsed());
        let took = Duration::from_nanos(stats.durations.sum());
        assert!((TIME..most).contains(&took), "{took:?}, {most:?}");
        assert_eq!(at_most(&stats.durations, 10_000_000), 0);
        assert_eq!(at_most(&stats.durations, 3_600_000_000_000), 1);
    });
}

#[test]
fn broadcasts_and_senders_send_too() {
    let room = Broadcast::new();
    let joins = room.clone();
    let server = serve(handler_fn(move |connection: &mut Connection| {
        let sender = connection.sender(1000)?;
        let member = joins.join(connection)?;
        connection.write_all(b"ready\n")?;
        connection.flush()?;
        sender.send("from the sender\n")?;
        connection.read_line(&mut String::new())?;
        member.leave();
        Ok(())
    }));
    let client = tcp(server.local_addr());
    assert_eq!([line_of(&client), line_of(&client)], ["ready", "from the sender"]);
    room.send("to all\n");
    assert_eq!(line_of(&client), "to all");
    drop(client);
    assert_eq!(after(&server, 1).bytes_sent.sum(), 6 + 16 + 7);
}

#[test]
fn a_relay_counts_the_bytes_of_the_client_once() {
    // More than it copies before it splices.
    const UP: usize = 300_000;
    const DOWN: usize = 200_000;
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = upstream.local_addr().unwrap();
    let server = serve(handler_fn(move |client: &mut Connection| {
        let mut upstream = client.connect(address, Duration::from_secs(10))?;
        client.relay(&mut upstream)?;
        Ok(())
    }));
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut accepted, _) = upstream.accept().unwrap();
            assert_eq!(rest_of(&accepted).len(), UP);
            accepted.write_all(&vec![b'y'; DOWN]).unwrap();
        });
        let mut client = tcp(server.local_addr());
        client.write_all(&vec![b'x'; UP]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest_of(client).len(), DOWN);
    });
    let stats = after(&server, 1);
    assert_eq!([stats.bytes_received.sum(), stats.bytes_sent.sum()], [UP as u64, DOWN as u64]);
}

#[test]
fn what_the_client_never_took_was_not_sent() {
    let server = serve(handler_fn(flood));
    let mut client = tcp(server.local_addr());
    let mut received = vec![0; 1_000_000];
    client.read_exact(&mut received).unwrap();
    drop(client);
    let sent = after(&server, 1).bytes_sent.sum();
    // And what was in the sockets' buffers.
    assert!((1_000_000..100_000_000).contains(&sent), "{sent}");
}

#[test]
fn datagrams_and_all_of_their_replies_are_counted() {
    let twice = datagram_handler_fn(|request| {
        request.reply(request.data())?;
        Ok(write!(request, "and again")?)
    });
    let server = serve_with(ThreadingUdpServer::builder(), twice);
    let client = udp(server.local_addr());
    client.send(&[b'x'; 500]).unwrap();
    let mut buffer = [0; 1000];
    assert_eq!([client.recv(&mut buffer).unwrap(), client.recv(&mut buffer).unwrap()], [500, 9]);
    let stats = after(&server, 1);
    assert_eq!([stats.bytes_received.sum(), stats.bytes_sent.sum()], [500, 509]);
}

#[test]
fn requests_that_have_not_run_are_not_in_the_histograms() {
    let server = serve_with(
        ThreadingTcpServer::builder().max_connections(1).overload(Overload::Refuse("full".into())),
        Echo,
    );
    let first = tcp(server.local_addr());
    (&first).write_all(b"hello\n").unwrap();
    assert_eq!(line_of(&first), "hello");
    assert_eq!(rest_of(tcp(server.local_addr())), b"full");
    drop(first);
    let stats = after(&server, 1);
    assert_eq!((stats.refused, stats.bytes_sent.sum()), (1, 6));
}

#[test]
fn a_server_that_has_served_nothing_has_empty_histograms() {
    let server = serve(Echo);
    assert_eq!(server.stats(), Stats::default());
    assert_eq!(server.stats().durations.count(), 0);
    let debug = format!("{:?}", server.stats());
    assert!(debug.ends_with("bytes_sent: [0 values, sum 0] }"), "{debug}");
}

#[test]
fn concurrent_requests_are_all_counted() {
    const THREADS: u64 = 8;
    const REQUESTS: u64 = 50;
    let server = serve(Echo);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..REQUESTS {
                    let client = tcp(server.local_addr());
                    (&client).write_all(b"hello\n").unwrap();
                    assert_eq!(line_of(&client), "hello");
                }
            });
        }
    });
    let stats = after(&server, THREADS * REQUESTS);
    assert_eq!(stats.bytes_received.sum(), 6 * THREADS * REQUESTS);
}
