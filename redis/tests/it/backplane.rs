//! What a chat's way through Redis holds when it is cut, slow, full, or loses its memory.

use std::io::Write;
use std::time::{Duration, Instant};

use socketserver::ThreadingUnixStreamServer;
use socketserver::services::Chat;
use socketserver_redis::Redis;

use crate::common::{abstract_name, unix, wait_until};
use crate::harness::{Test, tests};
use crate::support::redis::RedisServer;
use crate::support::room::{Guest, by, lines, number_in, server};

pub(crate) const TESTS: &[Test] = tests![
    guests_of_two_servers_hear_each_other_and_not_themselves: ["redis-server"],
    rooms_are_apart: ["redis-server"],
    what_was_appended_is_not_appended_again_when_its_answer_is_lost: ["redis-server"],
    what_does_not_fit_while_redis_is_away_is_lost_and_the_room_is_told_how_much: ["redis-server"],
    what_redis_has_forgotten_before_it_was_read_is_counted: ["redis-server"],
    a_redis_that_has_lost_its_memory_is_gone_on_with: ["redis-server"],
    whoever_was_cut_off_together_with_all_others_is_not_taken_for_dead_by_the_first_to_be_back: ["redis-server"],
    a_server_stops_in_time_though_its_redis_is_away: ["redis-server"],
    what_was_said_last_is_said_before_a_server_is_gone: ["redis-server"],
    a_room_has_a_name_without_braces,
];

fn guests_of_two_servers_hear_each_other_and_not_themselves() {
    let redis = RedisServer::start();
    let [here, there] = [server(by(&redis.url())), server(by(&redis.url()))];
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    assert_eq!(ada.hears(), ben.joined());
    ada.says("hello");
    assert_eq!(ben.hears_said(), ada.said("hello"));
    ben.says("\x1b[2Jhello");
    assert_eq!(ada.hears_said(), ben.said("\u{fffd}[2Jhello"));
    drop(ben.stream);
    assert_eq!(ada.hears(), format!("Client left {}", ben.name));
    ada.says("gone?");
    let cyd = Guest::join(&here, &redis);
    assert_eq!(ada.hears(), cyd.joined());
}

fn rooms_are_apart() {
    let redis = RedisServer::start();
    let here = server(by(&redis.url()));
    let elsewhere = server(Redis::new(&redis.url(), "elsewhere").unwrap());
    let ada = Guest::join(&here, &redis);
    let ben = Guest::enter(&elsewhere);
    ben.says("hello");
    wait_until("it is said", || redis.entries("elsewhere").len() == 2);
    let cyd = Guest::join(&here, &redis);
    assert_eq!(ada.hears(), cyd.joined());
    assert_eq!(lines(&redis), [ada.joined(), cyd.joined()]);
}

fn what_was_appended_is_not_appended_again_when_its_answer_is_lost() {
    let redis = RedisServer::start();
    let bridge = redis.bridge();
    let [here, there] = [server(by(bridge.url())), server(by(&redis.url()))];
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    for round in 0..5 {
        let (once, then) = (format!("once {round}"), format!("then {round}"));
        bridge.cut_after(&once);
        ada.says(&once);
        bridge.was_cut();
        ada.says(&then);
        assert_eq!(ben.hears_said(), ada.said(&once));
        assert_eq!(ben.hears_said(), ada.said(&then));
    }
    // Nor when it reaches Redis long after it was said again.
    let held = bridge.hold("thrice");
    ada.says("thrice");
    bridge.was_cut();
    assert_eq!(ben.hears_said(), ada.said("thrice"));
    drop(held);
    let again = Guest::join(&there, &redis);
    assert_eq!(ben.hears(), again.joined());
}

fn what_does_not_fit_while_redis_is_away_is_lost_and_the_room_is_told_how_much() {
    const SAID: usize = 100;
    let redis = RedisServer::start();
    let bridge = redis.bridge();
    let here = server(by(bridge.url()).capacity(5000));
    let there = server(by(&redis.url()));
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    assert_eq!(ada.hears(), ben.joined());
    bridge.cut();
    assert!(ada.is_told("Cut off from the other servers").contains(" 5000 bytes"));
    for line in 0..SAID {
        ada.says(&format!("line {line}"));
    }
    ada.is_told("Too much was said meanwhile");
    // Whoever comes and goes is not forgotten, though there is no room for it now.
    let cyd = Guest::enter(&here);
    let dot = Guest::enter(&here);
    drop(dot.stream);
    wait_until("one has left", || here.stats().active == 2);
    bridge.mend();
    let notice = ada.is_told("Connected to the other servers again");
    let lost = number_in(&notice).expect(&notice);
    assert!((1..SAID).contains(&lost), "{lost}");
    ada.says("heard again");
    let mut heard = Vec::new();
    while heard.last() != Some(&ada.said("heard again")) {
        heard.push(ben.hears());
    }
    // Which they may have heard, if they joined before Redis was read that far.
    heard.retain(|line| *line != ada.joined());
    assert_eq!(heard.len(), SAID - lost + 2);
    heard.retain(|line| *line != cyd.joined());
    assert_eq!(heard.len(), SAID - lost + 1);
    // What was said first is not what was lost.
    assert_eq!(heard[0], ada.said("line 0"));
    heard.pop();
    assert!(heard.is_sorted_by_key(|line| number_in(line.rsplit(' ').next().unwrap())));
}

fn what_redis_has_forgotten_before_it_was_read_is_counted() {
    const SAID: usize = 2000;
    let redis = RedisServer::start();
    let bridge = redis.bridge();
    let here = server(by(bridge.url()));
    let there = server(by(&redis.url()).history(100));
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    assert_eq!(ada.hears(), ben.joined());
    bridge.cut();
    ada.is_told("Cut off");
    for line in 0..SAID {
        ben.says(&format!("line {line}"));
    }
    let last = ben.said(&format!("line {}", SAID - 1));
    wait_until("it is said", || lines(&redis).last() == Some(&last));
    let kept = lines(&redis);
    assert!(kept.len() < SAID / 2, "{}", kept.len());
    bridge.mend();
    let lost = number_in(&ada.is_told("lines were lost"));
    assert_eq!(lost, Some(SAID - kept.len()));
    for line in kept {
        assert_eq!(ada.hears_said(), line);
    }
}

fn a_redis_that_has_lost_its_memory_is_gone_on_with() {
    let redis = RedisServer::start();
    let [here, there] = [server(by(&redis.url())), server(by(&redis.url()))];
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    assert_eq!(ada.hears(), ben.joined());
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    ada.says("still there?");
    assert_eq!(ben.hears_said(), ada.said("still there?"));
}

fn whoever_was_cut_off_together_with_all_others_is_not_taken_for_dead_by_the_first_to_be_back() {
    let redis = RedisServer::start();
    let bridges = [redis.bridge(), redis.bridge()];
    let [here, there] = bridges.each_ref().map(|bridge| server(by(bridge.url())));
    let ada = Guest::join(&here, &redis);
    let ben = Guest::join(&there, &redis);
    assert_eq!(ada.hears(), ben.joined());
    for (bridge, guest) in bridges.iter().zip([&ada, &ben]) {
        bridge.cut();
        guest.is_told("Cut off");
    }
    // Long enough.
    let servers = "chat:{lobby}:servers";
    let mut connection = redis.connect();
    let names: Vec<String> =
        redis::cmd("ZRANGE").arg(&[servers, "0", "-1"]).query(&mut connection).unwrap();
    assert_eq!(names.len(), 2);
    for name in &names {
        redis::cmd("ZADD").arg(&[servers, "1", name]).exec(&mut connection).unwrap();
        let watch = format!("chat:{{lobby}}:watch:{name}");
        redis::cmd("SET").arg(&[&watch, "1"]).exec(&mut connection).unwrap();
    }
    bridges[0].mend();
    ada.is_told("Connected");
    ada.says("anybody there?");
    wait_until("it is said", || lines(&redis).len() == 3);
    bridges[1].mend();
    assert_eq!(ben.hears_said(), ada.said("anybody there?"));
    ben.says("of course");
    assert_eq!(ada.hears_said(), ben.said("of course"));
    assert_eq!(lines(&redis).len(), 4);
}

fn a_server_stops_in_time_though_its_redis_is_away() {
    let mut redis = RedisServer::start();
    let here = server(by(&redis.url()));
    let ada = Guest::join(&here, &redis);
    redis.kill();
    ada.is_told("Cut off");
    ada.says("my last words");
    let begin = Instant::now();
    let report = here.stop(Duration::from_secs(5));
    assert_eq!((report.forced, report.stuck.len()), (0, 0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

fn what_was_said_last_is_said_before_a_server_is_gone() {
    let redis = RedisServer::start();
    let chat = Chat::with_backplane(by(&redis.url())).unwrap();
    let here = ThreadingUnixStreamServer::bind(format!("unix:{}", abstract_name()), chat).unwrap();
    let here = here.spawn().unwrap();
    // What is written to a Unix socket has been received.
    let mut ada = unix(here.local_addr());
    let said: String = (0..1000).map(|line| format!("line {line}\n")).collect();
    ada.write_all(said.as_bytes()).unwrap();
    wait_until("it is served", || here.stats().accepted == 1);
    here.stop(Duration::from_secs(10));
    let lines = lines(&redis);
    assert_eq!(lines.len(), 1002);
    assert_eq!(lines[1000..], ["[unix#1] line 999", "Client left unix#1"]);
    let left: usize =
        redis::cmd("EXISTS").arg("chat:{lobby}:servers").query(&mut redis.connect()).unwrap();
    assert_eq!(left, 0);
}

fn a_room_has_a_name_without_braces() {
    for name in ["", "a}b", "{", &"x".repeat(65)] {
        let error = Redis::new("redis://127.0.0.1", name).unwrap_err();
        assert!(error.to_string().contains("a room's name"), "{error}");
    }
    let _ = Redis::new("redis://127.0.0.1", &"x".repeat(64)).unwrap();
}
