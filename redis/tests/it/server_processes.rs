//! A room on several processes of the example `redis_chat`, some of which are killed.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::harness::{Test, tests};
use crate::redis_server::{Entry, RedisServer};
use crate::support::clients::tcp_from;
use crate::support::process::{Ended, Server, example, run};
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![
    ninety_members_on_three_servers_read_one_order_though_redis_and_a_server_are_killed: ["redis-server"],
    the_members_of_an_expired_server_join_again: ["redis-server"],
    a_chat_without_its_redis_does_not_start: ["redis-server"],
];

const ROOM: &str = "lobby";

fn start_chat(redis: &RedisServer) -> Server {
    let flags = ["--backplane", &redis.url(), "--room", ROOM, "--expiry", "2"];
    Server::start("redis_chat", "127.0.0.1:0", &flags)
}

/// A client that keeps all lines that it receives.
struct RecordingClient {
    stream: TcpStream,
    name: String,
    received: Arc<Mutex<Vec<String>>>,
}

impl RecordingClient {
    fn join(server: &Server) -> RecordingClient {
        let stream = tcp_from("127.0.0.1", server.endpoint());
        let name = stream.local_addr().unwrap().to_string();
        let received = Arc::new(Mutex::new(Vec::new()));
        let (reader, lines) = (BufReader::new(stream.try_clone().unwrap()), received.clone());
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                lines.lock().push(line);
            }
        });
        RecordingClient { stream, name, received }
    }

    fn send(&self, text: &str) {
        (&self.stream).write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// How many of the received lines contain `part`.
    fn count(&self, part: &str) -> usize {
        self.received.lock().iter().filter(|line| line.contains(part)).count()
    }

    #[track_caller]
    fn waits_for(&self, part: &str) {
        wait_until(part, || self.count(part) > 0);
    }

    /// The client has received the lines of these entries in their order, from its own join or a
    /// little earlier, without its own lines.
    #[track_caller]
    fn assert_received_all(&self, entries: &[Entry]) {
        let is_own =
            |line: &str| line == self.join_line() || line.starts_with(&format!("[{}] ", self.name));
        let begin = entries.iter().position(|(_, line)| *line == self.join_line()).unwrap();
        let others = |entries: &[Entry]| -> Vec<String> {
            entries.iter().map(|(_, line)| line.clone()).filter(|line| !is_own(line)).collect()
        };
        let due = others(&entries[begin..]);
        let before = others(&entries[..begin]);
        let received = self.received.lock();
        // Without the greeting and the notices.
        let received: Vec<String> =
            received[1..].iter().filter(|line| !line.starts_with("* ")).cloned().collect();
        let early = received.len().checked_sub(due.len()).expect("lines are missing");
        assert!(before.ends_with(&received[..early]), "{}: {:?}", self.name, &received[..early]);
        assert!(received[early..] == due, "{} has received other lines", self.name);
    }

    fn join_line(&self) -> String {
        format!("Client joined {}", self.name)
    }

    fn leave_line(&self) -> String {
        format!("Client left {}", self.name)
    }
}

/// Each of the clients sends so many lines, in turns.
fn all_send(clients: &[&RecordingClient], topic: &str, lines: usize) {
    for line in 0..lines {
        for client in clients {
            client.send(&format!("{topic} {line}"));
        }
    }
}

/// Waits until each client has received at least so many lines of a topic.
#[track_caller]
fn all_receive(clients: &[&RecordingClient], topic: &str, lines: usize) {
    for client in clients {
        wait_until(topic, || client.count(&format!("] {topic} ")) >= lines);
    }
}

fn stops(server: Server) -> Ended {
    server.signal(Signal::TERM);
    let ended = server.wait();
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    ended
}

fn ninety_members_on_three_servers_read_one_order_though_redis_and_a_server_are_killed() {
    const LINES: usize = 20;
    let mut redis = RedisServer::start();
    let [first, second, third] = [start_chat(&redis), start_chat(&redis), start_chat(&redis)];
    let join = |server| (0..30).map(|_| RecordingClient::join(server)).collect::<Vec<_>>();
    let [at_first, at_second, at_third] = [join(&first), join(&second), join(&third)];
    let all: Vec<&RecordingClient> = at_first.iter().chain(&at_second).chain(&at_third).collect();
    let remaining = &all[..60];
    wait_until("all are in", || redis.entries(ROOM).len() == 90);

    all_send(&all, "before", LINES);
    all_receive(&all, "before", 89 * LINES);

    // Lines that are not appended yet when Redis is killed are not lost.
    all_send(&all, "while it dies", LINES);
    redis.kill();
    for client in &all {
        client.waits_for("* Cut off");
    }
    all_send(&all, "without it", LINES);
    redis.start_again();
    all_receive(&all, "while it dies", 89 * LINES);
    all_receive(&all, "without it", 89 * LINES);
    for client in &all {
        client.waits_for("* Connected to the other servers again");
    }

    all_send(remaining, "while a server dies", LINES);
    third.signal(Signal::KILL);
    assert_eq!(third.wait().signal, Some(9));
    all_send(remaining, "without it, too", LINES);
    all_receive(remaining, "while a server dies", 59 * LINES);
    all_receive(remaining, "without it, too", 59 * LINES);
    for client in remaining {
        wait_until("they have left", || client.count("Client left ") == 30);
    }

    let entries = redis.entries(ROOM);
    for client in remaining {
        client.assert_received_all(&entries);
    }
    let different: HashSet<&String> = entries.iter().map(|(_, line)| line).collect();
    assert_eq!(different.len(), entries.len(), "a line was appended twice");
    assert_eq!(entries.len(), 90 + 90 * 3 * LINES + 60 * 2 * LINES + 30);
    for client in &at_third {
        assert!(different.contains(&client.leave_line()), "{} has not left", client.name);
    }
    for server in [first, second] {
        stops(server);
    }
    assert_eq!(redis.entries(ROOM).len(), entries.len() + 60);
}

fn the_members_of_an_expired_server_join_again() {
    let redis = RedisServer::start();
    let [first, second] = [start_chat(&redis), start_chat(&redis)];
    let [at_first, at_second] = [RecordingClient::join(&first), RecordingClient::join(&second)];
    wait_until("both are in", || redis.entries(ROOM).len() == 2);

    second.freeze();
    at_second.send("are you there?");
    at_first.waits_for(&at_second.leave_line());
    at_first.send("they have left");
    wait_until("it is appended", || redis.entries(ROOM).len() == 4);
    second.signal(Signal::CONT);
    at_first.waits_for("are you there?");
    at_second.waits_for("they have left");

    let lines: Vec<String> = redis.entries(ROOM).into_iter().map(|(_, line)| line).collect();
    let message_line = |client: &RecordingClient, text: &str| format!("[{}] {text}", client.name);
    assert_eq!(
        lines[2..],
        [
            at_second.leave_line(),
            message_line(&at_first, "they have left"),
            at_second.join_line(),
            message_line(&at_second, "are you there?"),
        ]
    );
    stops(first);
    stops(second);
}

fn a_chat_without_its_redis_does_not_start() {
    let redis = RedisServer::start();
    redis::cmd("SET")
        .arg(&["chat:{lobby}:stream", "something else"])
        .exec(&mut redis.connect())
        .unwrap();
    let nowhere = redis.url().replace("redis.sock", "nowhere.sock");
    for (flags, status, message) in [
        (["--backplane", &nowhere], 1, "nowhere.sock: No such file"),
        (["--backplane", &redis.url()], 1, "WRONGTYPE"),
        (["--backplane", "redis://user:secret@127.0.0.1:1/0"], 1, "127.0.0.1:1/0: "),
        (["--backplane", "tcp://127.0.0.1:1"], 1, "tcp://127.0.0.1:1: "),
        (["--room", "{tea}"], 1, "a room's name"),
        (["--expiry", "0"], 2, "--expiry 0"),
    ] {
        let mut command = example("redis_chat");
        command.args(["--listen", "127.0.0.1:0"]).args(flags);
        let ended = run(command, "");
        assert_eq!(ended.status, Some(status), "{}", ended.stderr);
        assert!(ended.stderr.contains(message), "{}", ended.stderr);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
    }
}
