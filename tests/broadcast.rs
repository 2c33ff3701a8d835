//! What a broadcast promises: one order for all, whole messages, nobody delayed by a slow member.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use common::{bounded, next, rest_of, tcp};
use parking_lot::Mutex;
use socketserver::{
    Broadcast, Connection, HandlerResult, RunningServer, StreamRequestHandler, ThreadingTcpServer,
    handler_fn,
};

const BOUND: Duration = Duration::from_secs(30);

/// What each client types, all others see.
struct Party(Broadcast);

impl StreamRequestHandler for Party {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let member = self.0.join(connection)?;
        connection.write_all(b"joined\n")?;
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            member.send_to_others(&*line);
            line.clear();
        }
        Ok(())
    }
}

fn serve(handler: impl StreamRequestHandler) -> RunningServer {
    ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap()
}

fn connect(server: &RunningServer) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(server.local_addr().socket_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    stream.set_write_timeout(Some(BOUND)).unwrap();
    BufReader::new(stream)
}

/// A client that is a member: it has been told so.
fn join(server: &RunningServer) -> BufReader<TcpStream> {
    let mut client = connect(server);
    assert_eq!(line(&mut client), "joined\n");
    client
}

fn line(client: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    client.read_line(&mut line).expect("a line in time");
    line
}

#[test]
fn all_members_see_all_messages_in_one_order() {
    const SENDERS: usize = 5;
    const LINES: usize = 2000;
    let room = Broadcast::new();
    let server = serve(Party(room.clone()));
    let readers: Vec<_> = (0..3).map(|_| join(&server)).collect();
    let senders: Vec<_> = (0..SENDERS).map(|_| join(&server)).collect();
    let senders: Vec<_> = (senders.into_iter().enumerate())
        .map(|(number, mut client)| {
            std::thread::spawn(move || {
                for count in 0..LINES {
                    writeln!(client.get_mut(), "{number} {count}").unwrap();
                }
                // Reads what the other senders say, too: nobody sees its own lines.
                let expected = (SENDERS - 1) * LINES;
                for _ in 0..expected {
                    assert!(!line(&mut client).starts_with(&format!("{number} ")));
                }
            })
        })
        .collect();
    let seen: Vec<Vec<String>> = (readers.into_iter())
        .map(|mut client| (0..SENDERS * LINES).map(|_| line(&mut client)).collect())
        .collect();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
    for number in 0..SENDERS {
        let of_one = seen[0].iter().filter(|line| line.starts_with(&format!("{number} ")));
        let expected = (0..LINES).map(|count| format!("{number} {count}\n"));
        assert!(of_one.cloned().eq(expected), "sender {number} out of order");
    }
    assert_eq!(room.slow_members(), 0);
}

#[test]
fn a_member_that_does_not_read_delays_nobody_and_is_disconnected() {
    let room = Broadcast::with_capacity(64 * 1024);
    let server = serve(Party(room.clone()));
    let _deaf = join(&server);
    let mut good = join(&server);
    let message = [vec![b'x'; 16 * 1024], b"\n".to_vec()].concat();
    let mut sent = 0;
    while room.slow_members() == 0 {
        room.send(&*message);
        // Nothing of what the deaf member has yet to get keeps this from coming.
        assert_eq!(line(&mut good).as_bytes(), message);
        sent += 1;
        assert!(sent < 100_000, "the deaf member is never disconnected");
    }
    room.send(&b"end\n"[..]);
    assert_eq!(line(&mut good), "end\n");
    assert_eq!(room.slow_members(), 1);
}

#[test]
fn what_a_handler_writes_itself_never_tears_a_message() {
    let room = Broadcast::new();
    let speaker = room.clone();
    // A client that reads slowly, so that sends are cut anywhere; its handler answers meanwhile.
    let server = serve(handler_fn(move |connection| {
        let member = speaker.join(connection)?;
        connection.write_all(b"joined\n")?;
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            connection.write_all(&[&[b'o'; 3000][..], b"\n"].concat())?;
            line.clear();
        }
        member.leave();
        Ok(())
    }));
    let mut client = join(&server);
    let mut asking = client.get_ref().try_clone().unwrap();
    let asker =
        std::thread::spawn(move || (0..300).for_each(|_| asking.write_all(b"?\n").unwrap()));
    let message = [vec![b'm'; 5000], b"\n".to_vec()].concat();
    let speaking = room.clone();
    let speaker = std::thread::spawn(move || (0..300).for_each(|_| speaking.send(&*message)));
    let (mut own, mut others) = (0, 0);
    while own + others < 600 {
        let line = line(&mut client);
        match (line.as_bytes()[0], line.len()) {
            (b'o', 3001) => own += 1,
            (b'm', 5001) => others += 1,
            torn => panic!("a torn message: {torn:?}"),
        }
        assert!(line.trim_end().bytes().all(|byte| byte == line.as_bytes()[0]), "mixed up");
    }
    assert_eq!((own, others), (300, 300));
    asker.join().unwrap();
    speaker.join().unwrap();
}

#[test]
fn a_member_that_leaves_receives_the_messages_sent_before_and_none_sent_after() {
    let room = Broadcast::new();
    let inside = room.clone();
    let (left, has_left) = mpsc::channel();
    let server = serve(handler_fn(move |connection| {
        let member = inside.join(connection)?;
        inside.send(&b"before\n"[..]);
        member.leave();
        inside.send(&b"after\n"[..]);
        connection.write_all(b"end\n")?;
        left.send(inside.members())?;
        Ok(())
    }));
    let mut client = connect(&server);
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "before\nend\n");
    assert_eq!(has_left.recv_timeout(BOUND).unwrap(), 0);
}

#[test]
fn a_broadcast_that_nobody_holds_ends_its_thread() {
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        let room = Broadcast::new();
        let mut connection = Connection::in_memory("");
        let member = room.join(connection.as_mut()).unwrap();
        room.send(&b"hello"[..]);
        member.leave();
        assert_eq!(connection.output(), b"hello");
        // Joins the room's thread.
        drop(room);
        ended.send(()).unwrap();
    });
    has_ended.recv_timeout(BOUND).expect("the thread ends");
}

#[test]
fn nothing_is_sent_behind_a_gap() {
    let _bound = bounded();
    let broadcast = Broadcast::new();
    let (told, tell) = mpsc::channel();
    let told = Mutex::new(told);
    let room = broadcast.clone();
    let handler = handler_fn(move |connection| {
        let member = room.join(connection)?;
        connection.set_write_timeout(Some(Duration::from_millis(50)));
        // More than the client's system takes while the client does not read.
        let failure = connection.write_all(&vec![b'x'; 64 * 1024 * 1024]);
        let joins_again = room.join(connection).is_ok();
        room.send(*b"behind a gap\n");
        // Leaving waits until what was sent before has been tried.
        member.leave();
        Ok(told.lock().send((failure.map_err(|error| error.kind()), joins_again))?)
    });
    let server = ThreadingTcpServer::bind("127.0.0.1:0", handler).unwrap().spawn().unwrap();
    let client = tcp(server.local_addr());
    assert_eq!(next(&tell), (Err(std::io::ErrorKind::TimedOut), false));
    let received = rest_of(&client);
    assert!(!received.is_empty() && received.iter().all(|byte| *byte == b'x'));
}
