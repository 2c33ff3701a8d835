//! One chat room on several servers, each a process of its own, by way of a real Redis: one order
//! everywhere, nothing lost and nothing twice, whoever is killed meanwhile.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rustix::process::Signal;

use crate::common::{tcp_of_its_own, wait_until};
use crate::harness::{Test, tests};
use crate::process::{Ended, Server, example, run};
use crate::support::redis::{Entry, RedisServer};

pub(crate) const TESTS: &[Test] = tests![
    ninety_guests_on_three_servers_hear_one_order_though_redis_and_a_server_are_killed: ["redis-server"],
    the_guests_of_a_server_that_was_taken_for_dead_join_again: ["redis-server"],
    a_chat_without_its_redis_does_not_start: ["redis-server"],
];

const ROOM: &str = "lobby";

fn chat(redis: &RedisServer) -> Server {
    let flags = ["--backplane", &redis.url(), "--room", ROOM, "--expiry", "2"];
    Server::start("redis_chat", "127.0.0.1:0", &flags)
}

/// Somebody in the room, who remembers all that they hear.
struct Guest {
    stream: TcpStream,
    name: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Guest {
    fn join(server: &Server) -> Guest {
        let stream = tcp_of_its_own(server.endpoint());
        let name = stream.local_addr().unwrap().to_string();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (reader, hears) = (BufReader::new(stream.try_clone().unwrap()), heard.clone());
        thread::spawn(move || {
            for line in reader.lines().map_while(Result::ok) {
                hears.lock().push(line);
            }
        });
        Guest { stream, name, heard }
    }

    fn says(&self, text: &str) {
        (&self.stream).write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    /// How many lines they have heard that have this in them.
    fn has_heard(&self, part: &str) -> usize {
        self.heard.lock().iter().filter(|line| line.contains(part)).count()
    }

    #[track_caller]
    fn hears(&self, part: &str) {
        wait_until(part, || self.has_heard(part) > 0);
    }

    /// What they were to hear of all this: everything from some time before their own joining on,
    /// in this order, but for what is their own.
    #[track_caller]
    fn has_heard_all(&self, entries: &[Entry]) {
        let is_own =
            |line: &str| line == self.joined() || line.starts_with(&format!("[{}] ", self.name));
        let begin = entries.iter().position(|(_, line)| *line == self.joined()).unwrap();
        let others = |entries: &[Entry]| -> Vec<String> {
            entries.iter().map(|(_, line)| line.clone()).filter(|line| !is_own(line)).collect()
        };
        let due = others(&entries[begin..]);
        let before = others(&entries[..begin]);
        let heard = self.heard.lock();
        // The greeting, and what the server says by itself.
        let heard: Vec<String> =
            heard[1..].iter().filter(|line| !line.starts_with("* ")).cloned().collect();
        let early = heard.len().checked_sub(due.len()).expect("they have not heard all");
        assert!(before.ends_with(&heard[..early]), "{}: {:?}", self.name, &heard[..early]);
        assert!(heard[early..] == due, "{} has heard something else", self.name);
    }

    fn joined(&self) -> String {
        format!("Client joined {}", self.name)
    }

    fn left(&self) -> String {
        format!("Client left {}", self.name)
    }
}

/// All of these say so many lines, in turns.
fn all_say(guests: &[&Guest], topic: &str, lines: usize) {
    for line in 0..lines {
        for guest in guests {
            guest.says(&format!("{topic} {line}"));
        }
    }
}

/// Each of them has heard so much of that.
#[track_caller]
fn all_hear(guests: &[&Guest], topic: &str, lines: usize) {
    for guest in guests {
        wait_until(topic, || guest.has_heard(&format!("] {topic} ")) >= lines);
    }
}

fn stops(server: Server) -> Ended {
    server.signal(Signal::TERM);
    let ended = server.ends();
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    ended
}

fn ninety_guests_on_three_servers_hear_one_order_though_redis_and_a_server_are_killed() {
    const LINES: usize = 20;
    let mut redis = RedisServer::start();
    let [ada, ben, cyd] = [chat(&redis), chat(&redis), chat(&redis)];
    let join = |server| (0..30).map(|_| Guest::join(server)).collect::<Vec<_>>();
    let [at_ada, at_ben, at_cyd] = [join(&ada), join(&ben), join(&cyd)];
    let everybody: Vec<&Guest> = at_ada.iter().chain(&at_ben).chain(&at_cyd).collect();
    let survivors = &everybody[..60];
    wait_until("all are in", || redis.entries(ROOM).len() == 90);

    all_say(&everybody, "before", LINES);
    all_hear(&everybody, "before", 89 * LINES);

    // What was said, and perhaps not yet appended, is not lost with Redis.
    all_say(&everybody, "while it dies", LINES);
    redis.kill();
    for guest in &everybody {
        guest.hears("* Cut off");
    }
    all_say(&everybody, "without it", LINES);
    redis.start_again();
    all_hear(&everybody, "while it dies", 89 * LINES);
    all_hear(&everybody, "without it", 89 * LINES);
    for guest in &everybody {
        guest.hears("* Connected to the other servers again");
    }

    all_say(survivors, "while a server dies", LINES);
    cyd.signal(Signal::KILL);
    assert_eq!(cyd.ends().signal, Some(9));
    all_say(survivors, "without it, too", LINES);
    all_hear(survivors, "while a server dies", 59 * LINES);
    all_hear(survivors, "without it, too", 59 * LINES);
    for guest in survivors {
        wait_until("they have left", || guest.has_heard("Client left ") == 30);
    }

    let entries = redis.entries(ROOM);
    for guest in survivors {
        guest.has_heard_all(&entries);
    }
    let different: HashSet<&String> = entries.iter().map(|(_, line)| line).collect();
    assert_eq!(different.len(), entries.len(), "something is there twice");
    assert_eq!(entries.len(), 90 + 90 * 3 * LINES + 60 * 2 * LINES + 30);
    for guest in &at_cyd {
        assert!(different.contains(&guest.left()), "{} has not left", guest.name);
    }
    for server in [ada, ben] {
        stops(server);
    }
    assert_eq!(redis.entries(ROOM).len(), entries.len() + 60);
}

fn the_guests_of_a_server_that_was_taken_for_dead_join_again() {
    let redis = RedisServer::start();
    let [ada, ben] = [chat(&redis), chat(&redis)];
    let [at_ada, at_ben] = [Guest::join(&ada), Guest::join(&ben)];
    wait_until("both are in", || redis.entries(ROOM).len() == 2);

    ben.freeze();
    at_ben.says("are you there?");
    at_ada.hears(&at_ben.left());
    at_ada.says("they have left");
    wait_until("it is said", || redis.entries(ROOM).len() == 4);
    ben.signal(Signal::CONT);
    at_ada.hears("are you there?");
    at_ben.hears("they have left");

    let lines: Vec<String> = redis.entries(ROOM).into_iter().map(|(_, line)| line).collect();
    let said = |guest: &Guest, text: &str| format!("[{}] {text}", guest.name);
    assert_eq!(
        lines[2..],
        [
            at_ben.left(),
            said(&at_ada, "they have left"),
            at_ben.joined(),
            said(&at_ben, "are you there?"),
        ]
    );
    stops(ada);
    stops(ben);
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
