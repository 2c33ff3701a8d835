//! A room whose Redis stands still, is slow, has lost its last writes, or has foreign entries.

use std::time::{Duration, Instant};

use socketserver::RunningServer;
use socketserver::extend::{Backplane, Kind, LocalMembers, Message};
use socketserver::services::Chat;
use socketserver_redis::{Error, Redis};

use crate::harness::{Test, tests};
use crate::redis_server::RedisServer;
use crate::room::{Client, ROOM, backplane, lines, server, serving};
use crate::support::wait_until;

pub(crate) const TESTS: &[Test] = tests![
    a_room_of_thousands_is_registered_again_when_redis_is_back: ["redis-server"],
    a_line_that_redis_lost_after_it_was_read_is_not_delivered_again: ["redis-server"],
    a_late_registration_does_not_bring_back_a_member_that_has_left: ["redis-server"],
    no_server_expires_because_redis_stood_still: ["redis-server"],
    foreign_entries_in_the_stream_are_ignored: ["redis-server"],
    a_read_only_redis_is_an_error_at_the_start: ["redis-server"],
    extreme_settings_work: ["redis-server"],
    a_server_stops_in_time_though_its_redis_stands_still: ["redis-server"],
    a_server_stops_in_time_though_its_redis_is_slow: ["redis-server"],
];

/// How long a stop may take.
const STOP: Duration = Duration::from_secs(5);

#[track_caller]
fn stops_in_time(server: RunningServer) {
    let begin = Instant::now();
    let report = server.stop(STOP);
    assert_eq!((report.forced, report.stuck.len()), (0, 0));
    assert!(begin.elapsed() < STOP, "{:?}", begin.elapsed());
}

fn key(name: &str) -> String {
    format!("chat:{{{ROOM}}}:{name}")
}

/// The keys of this name, one for each server.
fn keys(redis: &RedisServer, name: &str) -> Vec<String> {
    let pattern = format!("chat:{{{ROOM}}}:{name}:*");
    redis::cmd("KEYS").arg(pattern).query(&mut redis.connect()).unwrap()
}

/// Publishes thousands of extra joins with each join.
#[derive(Debug)]
struct ExtraMembers(Redis);

const EXTRA: u64 = 3000;

impl Backplane for ExtraMembers {
    type Error = Error;

    fn open(&mut self, members: LocalMembers) -> Result<(), Error> {
        self.0.open(members)
    }

    fn publish(&self, message: Message) {
        if matches!(message.kind, Kind::Join { .. }) {
            for extra in 1..=EXTRA {
                let mut joins = message.clone();
                joins.author = (u64::from(joins.author) + extra).into();
                joins.line = format!("extra {extra} joined");
                self.0.publish(joins);
            }
        }
        self.0.publish(message);
    }
}

fn a_room_of_thousands_is_registered_again_when_redis_is_back() {
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let chat =
        Chat::with_backplane(ExtraMembers(backplane(proxy.url()))).unwrap().greeting("hello\r\n");
    let here = serving(chat);
    let alice = Client::join(&here, &redis);
    proxy.cut();
    alice.notice_with("Cut off");
    proxy.restore();
    alice.notice_with("Connected to the other servers again");
    // Also after Redis has lost its data.
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    wait_until("they join again", || lines(&redis).len() as u64 == EXTRA + 1);
}

fn a_line_that_redis_lost_after_it_was_read_is_not_delivered_again() {
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let expiry = Duration::from_secs(1);
    let [here, there] =
        [proxy.url(), &redis.url()].map(|url| server(backplane(url).expiry(expiry)));
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    assert_eq!(alice.next_line(), bob.join_line());
    for text in ["one", "two", "three"] {
        bob.send(text);
        assert_eq!(alice.next_line(), bob.message_line(text));
    }
    proxy.cut();
    alice.notice_with("Cut off");
    // The data of a replica that took over, without the last line and the last joins.
    let mut connection = redis.connect();
    let last: Vec<(String, Vec<String>)> = redis::cmd("XREVRANGE")
        .arg(&[&key("stream"), "+", "-", "COUNT", "1"])
        .query(&mut connection)
        .unwrap();
    redis::cmd("XDEL").arg(&[&key("stream"), &last[0].0]).exec(&mut connection).unwrap();
    redis::cmd("DECR").arg(key("count")).exec(&mut connection).unwrap();
    redis::cmd("DEL").arg(keys(&redis, "members")).exec(&mut connection).unwrap();
    proxy.restore();
    alice.notice_with("Connected to the other servers again");
    bob.send("four");
    assert_eq!(alice.next_line(), bob.message_line("four"));
    // The member is registered again, so that the other server delivers its leave message.
    wait_until("the member is registered", || !keys(&redis, "members").is_empty());
    proxy.cut();
    assert_eq!(bob.next_message(), format!("Client left {}", alice.name));
}

fn a_late_registration_does_not_bring_back_a_member_that_has_left() {
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let expiry = Duration::from_secs(1);
    let [here, there] =
        [proxy.url(), &redis.url()].map(|url| server(backplane(url).expiry(expiry)));
    let [alice, bob] = [&here, &there].map(|server| Client::join(server, &redis));
    let carol = Client::join(&here, &redis);
    proxy.cut();
    alice.notice_with("Cut off");
    let left = format!("Client left {}", carol.name);
    let held = proxy.hold(&left);
    proxy.restore();
    proxy.was_cut();
    drop(carol.stream);
    let mut connection = redis.connect();
    wait_until("it is appended", || lines(&redis).contains(&left));
    let mut clients = || -> usize {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
        list.lines().count()
    };
    let before = clients();
    drop(held);
    wait_until("Redis has handled the late registration", || clients() < before);
    proxy.cut();
    loop {
        let line = bob.next_message();
        if line == format!("Client left {}", alice.name) {
            break;
        }
    }
    // The leave messages of an expired server are appended at once: carol's is not among them.
    let left: Vec<String> = lines(&redis).into_iter().filter(|line| *line == left).collect();
    assert_eq!(left.len(), 1);
}

fn no_server_expires_because_redis_stood_still() {
    let redis = RedisServer::start();
    let expiry = Duration::from_secs(1);
    let servers = [(); 3].map(|()| server(backplane(&redis.url()).expiry(expiry)));
    let clients = servers.each_ref().map(|server| Client::join(server, &redis));
    // Until a server expires one that is silent, and so would expire the others.
    let registered = || -> usize {
        let mut connection = redis.connect();
        redis::cmd("ZADD").arg(&[&key("servers"), "1", "silent"]).exec(&mut connection).unwrap();
        redis::cmd("ZCARD").arg(key("servers")).query(&mut connection).unwrap()
    };
    wait_until("the silent server has expired", || registered() == 3);
    redis.freeze();
    for client in &clients {
        client.notice_with("Cut off");
    }
    redis.thaw();
    for client in &clients {
        client.notice_with("Connected to the other servers again");
    }
    for client in &clients {
        client.send("still here");
    }
    wait_until("it is appended", || lines(&redis).len() >= 6);
    assert_eq!(lines(&redis).len(), 6, "{:?}", lines(&redis));
}

fn foreign_entries_in_the_stream_are_ignored() {
    let redis = RedisServer::start();
    let write = |fields: &[&[u8]]| {
        let mut add = redis::cmd("XADD");
        add.arg(key("stream")).arg("*").arg(fields).exec(&mut redis.connect()).unwrap();
    };
    write(&[b"\xff", b"\xfe"]);
    let here = server(backplane(&redis.url()));
    let alice = Client::connect(&here);
    let entries =
        || -> usize { redis::cmd("XLEN").arg(key("stream")).query(&mut redis.connect()).unwrap() };
    wait_until("it joins", || entries() == 2);
    write(&[b"\xff", b"\xfe"]);
    write(&[b"number", b"\xff", b"author", b"\xff", b"line", b"\xff"]);
    write(&[b"number", b"many", b"author", b"me", b"line", b"psst"]);
    let bob = Client::connect(&here);
    assert_eq!(alice.next_line(), bob.join_line());
}

fn a_read_only_redis_is_an_error_at_the_start() {
    let redis = RedisServer::start();
    redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).exec(&mut redis.connect()).unwrap();
    let error = Chat::with_backplane(backplane(&redis.url())).unwrap_err();
    assert!(format!("{error}").contains("read only"), "{error}");
}

fn extreme_settings_work() {
    let redis = RedisServer::start();
    let extreme = backplane(&redis.url()).capacity(0).history(usize::MAX).expiry(Duration::MAX);
    let here = server(extreme);
    let alice = Client::join(&here, &redis);
    for text in ["one", "two", "three"] {
        alice.send(text);
    }
    wait_until("it is appended", || lines(&redis).len() == 4);
    stops_in_time(here);
}

fn a_server_stops_in_time_though_its_redis_stands_still() {
    let redis = RedisServer::start();
    let here = server(backplane(&redis.url()));
    let alice = Client::join(&here, &redis);
    redis.freeze();
    alice.send("my last words");
    stops_in_time(here);
}

fn a_server_stops_in_time_though_its_redis_is_slow() {
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let here = server(backplane(proxy.url()));
    let alice = Client::join(&here, &redis);
    proxy.slow_down(Duration::from_secs(1));
    let sent: Vec<String> = (0..10_000).map(|line| format!("line {line}")).collect();
    alice.send(&sent.join("\n"));
    wait_until("appending has begun", || lines(&redis).len() > 1);
    stops_in_time(here);
}
