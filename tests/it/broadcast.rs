//! What a broadcast promises: one order for all members, whole messages, and no delay by a slow
//! member.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use socketserver::{
    Broadcast, Connection, HandlerResult, RunningServer, StreamRequestHandler, handler_fn,
};

use crate::support::clients::{rest_of, tcp};
use crate::support::next;
use crate::support::servers::serve;

/// A chat: each line of a client is sent to all other clients.
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

fn connect(server: &RunningServer) -> BufReader<TcpStream> {
    BufReader::new(tcp(server.local_addr()))
}

/// A client that has read that it is a member.
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
                // A sender reads the lines of the other senders, and not its own.
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
fn a_member_that_does_not_read_is_disconnected_and_delays_no_other() {
    let room = Broadcast::with_capacity(64 * 1024);
    let server = serve(Party(room.clone()));
    let _slow = join(&server);
    let mut good = join(&server);
    let message = [vec![b'x'; 16 * 1024], b"\n".to_vec()].concat();
    let mut sent = 0;
    while room.slow_members() == 0 {
        room.send(&*message);
        // It does not wait for what is pending for the slow member.
        assert_eq!(line(&mut good).as_bytes(), message);
        sent += 1;
        assert!(sent < 100_000, "the slow member is not disconnected");
    }
    room.send(&b"end\n"[..]);
    assert_eq!(line(&mut good), "end\n");
    assert_eq!(room.slow_members(), 1);
}

#[test]
fn a_handlers_own_writes_do_not_split_a_message() {
    let room = Broadcast::new();
    let speaker = room.clone();
    // The client reads slowly, so that writes to it are short. Its handler answers meanwhile.
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
            split => panic!("a split message: {split:?}"),
        }
        assert!(line.trim_end().bytes().all(|byte| byte == line.as_bytes()[0]), "mixed messages");
    }
    assert_eq!((own, others), (300, 300));
    asker.join().unwrap();
    speaker.join().unwrap();
}

#[test]
fn a_member_that_leaves_gets_what_was_sent_before_and_nothing_after() {
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
    assert_eq!(next(&has_left), 0);
}

#[test]
fn dropping_a_broadcast_ends_its_thread() {
    let (ended, has_ended) = mpsc::channel();
    std::thread::spawn(move || {
        let room = Broadcast::new();
        let mut connection = Connection::in_memory("");
        let member = room.join(connection.as_mut()).unwrap();
        room.send(&b"hello"[..]);
        member.leave();
        assert_eq!(connection.output(), b"hello");
        // Joins the broadcast's thread.
        drop(room);
        ended.send(()).unwrap();
    });
    next(&has_ended);
}

#[test]
fn nothing_is_sent_after_a_write_that_timed_out() {
    let broadcast = Broadcast::new();
    let (sender, results) = mpsc::channel();
    let sender = Mutex::new(sender);
    let room = broadcast.clone();
    let handler = handler_fn(move |connection| {
        let member = room.join(connection)?;
        connection.set_write_timeout(Some(Duration::from_millis(50)));
        // More than the socket buffers take while the client does not read.
        let failure = connection.write_all(&vec![b'x'; 64 * 1024 * 1024]);
        let joins_again = room.join(connection).is_ok();
        room.send(*b"after a gap\n");
        // The drop waits until what was sent before has been tried.
        drop(member);
        Ok(sender.lock().send((failure.map_err(|error| error.kind()), joins_again))?)
    });
    let server = serve(handler);
    let client = tcp(server.local_addr());
    assert_eq!(next(&results), (Err(std::io::ErrorKind::TimedOut), false));
    let received = rest_of(&client);
    assert!(!received.is_empty() && received.iter().all(|byte| *byte == b'x'));
}
