//! What a chat's way through Redis holds when Redis itself is in trouble: when it stands still, is
//! slow, has lost its last words, or holds what others wrote.

mod common;
#[path = "common/process.rs"]
mod process;
#[path = "common/redis.rs"]
mod redis_server;
#[path = "common/room.rs"]
mod room;

use std::time::{Duration, Instant};

use common::{bounded, wait_until};
use redis_server::Redis;
use room::{Guest, ROOM, by, lines, server};
use socketserver::services::{Audience, Backplane, Chat, Message, Presence, Redis as OverRedis};
use socketserver::{MemberId, Result, RunningServer};

/// How long a stop may take at most, with all that it waits for.
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

/// The keys of each server that have this name.
fn keys(redis: &Redis, name: &str) -> Vec<String> {
    let pattern = format!("chat:{{{ROOM}}}:{name}:*");
    redis::cmd("KEYS").arg(pattern).query(&mut redis.connect()).unwrap()
}

/// Everybody who joins brings thousands of friends.
#[derive(Debug)]
struct Crowd(OverRedis);

const FRIENDS: u64 = 3000;

impl Backplane for Crowd {
    fn open(&mut self, audience: Audience) -> Result<()> {
        self.0.open(audience)
    }

    fn publish(&self, message: Message) {
        if matches!(message.presence, Presence::Joins { .. }) {
            for friend in 1..=FRIENDS {
                let mut joins = message.clone();
                joins.author = MemberId::from(u64::from(joins.author) + friend);
                joins.line = format!("friend {friend} joined");
                self.0.publish(joins);
            }
        }
        self.0.publish(message);
    }
}

#[test]
fn a_room_of_thousands_is_there_again_when_redis_is() {
    let _bound = bounded();
    let redis = Redis::start();
    let bridge = redis.bridge();
    let chat = Chat::with_backplane(Crowd(by(bridge.url()))).unwrap().greeting("hello\r\n");
    let here = room::serving(chat);
    let ada = Guest::join(&here, &redis);
    bridge.cut();
    ada.is_told("Cut off");
    bridge.mend();
    ada.is_told("Connected to the other servers again");
    // And when it has forgotten them.
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    wait_until("they join again", || lines(&redis).len() as u64 == FRIENDS + 1);
}

#[test]
fn what_redis_forgot_and_what_was_heard_already_is_not_heard_again() {
    let _bound = bounded();
    let redis = Redis::start();
    let bridge = redis.bridge();
    let expiry = Duration::from_secs(1);
    let [here, there] = [bridge.url(), &redis.url()].map(|url| server(by(url).expiry(expiry)));
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    assert_eq!(ada.hears(), ben.joined());
    for text in ["one", "two", "three"] {
        ben.says(text);
        assert_eq!(ada.hears(), ben.said(text));
    }
    bridge.cut();
    ada.is_told("Cut off");
    // As a replica that took over has: without what was said last, and who came last.
    let mut connection = redis.connect();
    let last: Vec<(String, Vec<String>)> = redis::cmd("XREVRANGE")
        .arg(&[&key("stream"), "+", "-", "COUNT", "1"])
        .query(&mut connection)
        .unwrap();
    redis::cmd("XDEL").arg(&[&key("stream"), &last[0].0]).exec(&mut connection).unwrap();
    redis::cmd("DECR").arg(key("count")).exec(&mut connection).unwrap();
    redis::cmd("DEL").arg(keys(&redis, "members")).exec(&mut connection).unwrap();
    bridge.mend();
    ada.is_told("Connected to the other servers again");
    ben.says("four");
    assert_eq!(ada.hears(), ben.said("four"));
    // The others still hear of it when the server is gone.
    wait_until("it is known who is there", || !keys(&redis, "members").is_empty());
    bridge.cut();
    assert_eq!(ben.hears_said(), format!("Client left {}", ada.name));
}

#[test]
fn whoever_left_is_not_there_again_when_redis_hears_late_that_they_were() {
    let _bound = bounded();
    let redis = Redis::start();
    let bridge = redis.bridge();
    let expiry = Duration::from_secs(1);
    let [here, there] = [bridge.url(), &redis.url()].map(|url| server(by(url).expiry(expiry)));
    let [ada, ben] = [&here, &there].map(|server| Guest::join(server, &redis));
    let cyd = Guest::join(&here, &redis);
    bridge.cut();
    ada.is_told("Cut off");
    let left = format!("Client left {}", cyd.name);
    let held = bridge.hold(&left);
    bridge.mend();
    bridge.was_cut();
    drop(cyd.stream);
    let mut connection = redis.connect();
    wait_until("it is said", || lines(&redis).contains(&left));
    let mut clients = || -> usize {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap();
        list.lines().count()
    };
    let before = clients();
    drop(held);
    wait_until("Redis has heard it", || clients() < before);
    bridge.cut();
    loop {
        let line = ben.hears_said();
        if line == format!("Client left {}", ada.name) {
            break;
        }
    }
    // All of whom Redis knew were said to have left at once.
    let left: Vec<String> = lines(&redis).into_iter().filter(|line| *line == left).collect();
    assert_eq!(left.len(), 1);
}

#[test]
fn nobody_is_taken_for_dead_because_redis_stood_still() {
    let _bound = bounded();
    let redis = Redis::start();
    let expiry = Duration::from_secs(1);
    let servers = [(); 3].map(|()| server(by(&redis.url()).expiry(expiry)));
    let guests = servers.each_ref().map(|server| Guest::join(server, &redis));
    // Until each would take others for dead.
    let dead = || -> usize {
        let mut connection = redis.connect();
        redis::cmd("ZADD").arg(&[&key("servers"), "1", "dead"]).exec(&mut connection).unwrap();
        redis::cmd("ZCARD").arg(key("servers")).query(&mut connection).unwrap()
    };
    wait_until("the dead are found", || dead() == 3);
    redis.freeze();
    for guest in &guests {
        guest.is_told("Cut off");
    }
    redis.thaw();
    for guest in &guests {
        guest.is_told("Connected to the other servers again");
    }
    for guest in &guests {
        guest.says("still here");
    }
    wait_until("it is said", || lines(&redis).len() >= 6);
    assert_eq!(lines(&redis).len(), 6, "{:?}", lines(&redis));
}

#[test]
fn what_others_write_into_the_stream_is_nobodys() {
    let _bound = bounded();
    let redis = Redis::start();
    let write = |fields: &[&[u8]]| {
        let mut add = redis::cmd("XADD");
        add.arg(key("stream")).arg("*").arg(fields).exec(&mut redis.connect()).unwrap();
    };
    write(&[b"\xff", b"\xfe"]);
    let here = server(by(&redis.url()));
    let ada = Guest::enter(&here);
    let entries =
        || -> usize { redis::cmd("XLEN").arg(key("stream")).query(&mut redis.connect()).unwrap() };
    wait_until("it joins", || entries() == 2);
    write(&[b"\xff", b"\xfe"]);
    write(&[b"number", b"\xff", b"author", b"\xff", b"line", b"\xff"]);
    write(&[b"number", b"many", b"author", b"me", b"line", b"psst"]);
    let ben = Guest::enter(&here);
    assert_eq!(ada.hears(), ben.joined());
}

#[test]
fn a_redis_that_takes_nothing_is_refused_at_the_start() {
    let _bound = bounded();
    let redis = Redis::start();
    redis::cmd("REPLICAOF").arg(&["127.0.0.1", "1"]).exec(&mut redis.connect()).unwrap();
    let error = Chat::with_backplane(by(&redis.url())).unwrap_err();
    assert!(format!("{error}").contains("read only"), "{error}");
}

#[test]
fn the_extremes_of_its_settings_are_no_trouble() {
    let _bound = bounded();
    let redis = Redis::start();
    let extreme = by(&redis.url()).capacity(0).history(usize::MAX).expiry(Duration::MAX);
    let here = server(extreme);
    let ada = Guest::join(&here, &redis);
    for text in ["one", "two", "three"] {
        ada.says(text);
    }
    wait_until("it is said", || lines(&redis).len() == 4);
    stops_in_time(here);
}

#[test]
fn a_server_stops_in_time_though_its_redis_stands_still() {
    let _bound = bounded();
    let redis = Redis::start();
    let here = server(by(&redis.url()));
    let ada = Guest::join(&here, &redis);
    redis.freeze();
    ada.says("my last words");
    stops_in_time(here);
}

#[test]
fn a_server_stops_in_time_though_its_redis_is_slow() {
    let _bound = bounded();
    let redis = Redis::start();
    let bridge = redis.bridge();
    let here = server(by(bridge.url()));
    let ada = Guest::join(&here, &redis);
    bridge.slow_down(Duration::from_secs(1));
    let said: Vec<String> = (0..10_000).map(|line| format!("line {line}")).collect();
    ada.says(&said.join("\n"));
    wait_until("it is being said", || lines(&redis).len() > 1);
    stops_in_time(here);
}
