//! A room whose connections to Redis are cut, or whose Redis loses its data.

use std::io::Write;
use std::time::{Duration, Instant};

use socketserver::ThreadingUnixStreamServer;
use socketserver::services::Chat;
use socketserver_redis::Redis;

use crate::harness::{Test, tests};
use crate::redis_server::RedisServer;
use crate::room::{Client, backplane, lines, number_in, server};
use crate::support::clients::unix;
use crate::support::{abstract_name, wait_until};

pub(crate) const TESTS: &[Test] = tests![
    members_of_two_servers_read_each_others_lines_and_not_their_own: ["redis-server"],
    rooms_are_separate: ["redis-server"],
    a_message_whose_reply_is_lost_is_appended_once: ["redis-server"],
    messages_over_the_capacity_are_lost_and_counted_while_redis_is_away: ["redis-server"],
    lines_trimmed_before_they_were_read_are_counted: ["redis-server"],
    servers_go_on_after_redis_has_lost_its_data: ["redis-server"],
    the_first_server_to_reconnect_does_not_expire_the_others: ["redis-server"],
    a_server_stops_in_time_though_its_redis_is_away: ["redis-server"],
    a_stopping_server_appends_its_last_messages: ["redis-server"],
    a_room_has_a_name_without_braces,
];

fn members_of_two_servers_read_each_others_lines_and_not_their_own() {
    let redis = RedisServer::start();
    let [here, there] = [server(backplane(&redis.url())), server(backplane(&redis.url()))];
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    assert_eq!(alice.next_line(), bob.join_line());
    alice.send("hello");
    assert_eq!(bob.next_message(), alice.message_line("hello"));
    bob.send("\x1b[2Jhello");
    assert_eq!(alice.next_message(), bob.message_line("\u{fffd}[2Jhello"));
    drop(bob.stream);
    assert_eq!(alice.next_line(), format!("Client left {}", bob.name));
    alice.send("gone?");
    let carol = Client::join(&here, &redis);
    assert_eq!(alice.next_line(), carol.join_line());
}

fn rooms_are_separate() {
    let redis = RedisServer::start();
    let here = server(backplane(&redis.url()));
    let elsewhere = server(Redis::new(&redis.url(), "elsewhere").unwrap());
    let alice = Client::join(&here, &redis);
    let bob = Client::connect(&elsewhere);
    bob.send("hello");
    wait_until("it is appended", || redis.entries("elsewhere").len() == 2);
    let carol = Client::join(&here, &redis);
    assert_eq!(alice.next_line(), carol.join_line());
    assert_eq!(lines(&redis), [alice.join_line(), carol.join_line()]);
}

fn a_message_whose_reply_is_lost_is_appended_once() {
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let [here, there] = [server(backplane(proxy.url())), server(backplane(&redis.url()))];
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    for round in 0..5 {
        let (once, then) = (format!("once {round}"), format!("then {round}"));
        proxy.cut_after(&once);
        alice.send(&once);
        proxy.was_cut();
        alice.send(&then);
        assert_eq!(bob.next_message(), alice.message_line(&once));
        assert_eq!(bob.next_message(), alice.message_line(&then));
    }
    // Also when the first request reaches Redis long after the second.
    let held = proxy.hold("thrice");
    alice.send("thrice");
    proxy.was_cut();
    assert_eq!(bob.next_message(), alice.message_line("thrice"));
    drop(held);
    let again = Client::join(&there, &redis);
    assert_eq!(bob.next_line(), again.join_line());
}

fn messages_over_the_capacity_are_lost_and_counted_while_redis_is_away() {
    const SENT: usize = 100;
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let here = server(backplane(proxy.url()).capacity(5000));
    let there = server(backplane(&redis.url()));
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    assert_eq!(alice.next_line(), bob.join_line());
    proxy.cut();
    assert!(alice.notice_with("Cut off from the other servers").contains(" 5000 bytes"));
    for line in 0..SENT {
        alice.send(&format!("line {line}"));
    }
    alice.notice_with("Too much was said meanwhile");
    // A join that does not fit is not lost, unless its leave follows.
    let carol = Client::connect(&here);
    let dave = Client::connect(&here);
    drop(dave.stream);
    wait_until("one has left", || here.stats().active == 2);
    proxy.restore();
    let notice = alice.notice_with("Connected to the other servers again");
    let lost = number_in(&notice).expect(&notice);
    assert!((1..SENT).contains(&lost), "{lost}");
    alice.send("kept again");
    let mut received = Vec::new();
    while received.last() != Some(&alice.message_line("kept again")) {
        received.push(bob.next_line());
    }
    // Bob's server may or may not deliver the joins from just before his.
    received.retain(|line| *line != alice.join_line());
    assert_eq!(received.len(), SENT - lost + 2);
    received.retain(|line| *line != carol.join_line());
    assert_eq!(received.len(), SENT - lost + 1);
    // The first lines were kept.
    assert_eq!(received[0], alice.message_line("line 0"));
    received.pop();
    assert!(received.is_sorted_by_key(|line| number_in(line.rsplit(' ').next().unwrap())));
}

fn lines_trimmed_before_they_were_read_are_counted() {
    const SENT: usize = 2000;
    let redis = RedisServer::start();
    let proxy = redis.proxy();
    let here = server(backplane(proxy.url()));
    let there = server(backplane(&redis.url()).history(100));
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    assert_eq!(alice.next_line(), bob.join_line());
    proxy.cut();
    alice.notice_with("Cut off");
    for line in 0..SENT {
        bob.send(&format!("line {line}"));
    }
    let last = bob.message_line(&format!("line {}", SENT - 1));
    wait_until("it is appended", || lines(&redis).last() == Some(&last));
    let kept = lines(&redis);
    assert!(kept.len() < SENT / 2, "{}", kept.len());
    proxy.restore();
    let lost = number_in(&alice.notice_with("lines were lost"));
    assert_eq!(lost, Some(SENT - kept.len()));
    for line in kept {
        assert_eq!(alice.next_message(), line);
    }
}

fn servers_go_on_after_redis_has_lost_its_data() {
    let redis = RedisServer::start();
    let [here, there] = [server(backplane(&redis.url())), server(backplane(&redis.url()))];
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    assert_eq!(alice.next_line(), bob.join_line());
    redis::cmd("FLUSHALL").exec(&mut redis.connect()).unwrap();
    alice.send("still there?");
    assert_eq!(bob.next_message(), alice.message_line("still there?"));
}

fn the_first_server_to_reconnect_does_not_expire_the_others() {
    let redis = RedisServer::start();
    let proxies = [redis.proxy(), redis.proxy()];
    let [here, there] = proxies.each_ref().map(|proxy| server(backplane(proxy.url())));
    let alice = Client::join(&here, &redis);
    let bob = Client::join(&there, &redis);
    assert_eq!(alice.next_line(), bob.join_line());
    for (proxy, client) in proxies.iter().zip([&alice, &bob]) {
        proxy.cut();
        client.notice_with("Cut off");
    }
    // As if both had been silent for longer than their expiry.
    let servers = "chat:{lobby}:servers";
    let mut connection = redis.connect();
    let names: Vec<String> =
        redis::cmd("ZRANGE").arg(&[servers, "0", "-1"]).query(&mut connection).unwrap();
    assert_eq!(names.len(), 2);
    for name in &names {
        redis::cmd("ZADD").arg(&[servers, "1", name]).exec(&mut connection).unwrap();
        let alive_since = format!("chat:{{lobby}}:alive_since:{name}");
        redis::cmd("SET").arg(&[&alive_since, "1"]).exec(&mut connection).unwrap();
    }
    proxies[0].restore();
    alice.notice_with("Connected");
    alice.send("anybody there?");
    wait_until("it is appended", || lines(&redis).len() == 3);
    proxies[1].restore();
    assert_eq!(bob.next_message(), alice.message_line("anybody there?"));
    bob.send("of course");
    assert_eq!(alice.next_message(), bob.message_line("of course"));
    assert_eq!(lines(&redis).len(), 4);
}

fn a_server_stops_in_time_though_its_redis_is_away() {
    let mut redis = RedisServer::start();
    let here = server(backplane(&redis.url()));
    let alice = Client::join(&here, &redis);
    redis.kill();
    alice.notice_with("Cut off");
    alice.send("my last words");
    let begin = Instant::now();
    let report = here.stop(Duration::from_secs(5));
    assert_eq!((report.forced, report.stuck.len()), (0, 0));
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

fn a_stopping_server_appends_its_last_messages() {
    let redis = RedisServer::start();
    let chat = Chat::with_backplane(backplane(&redis.url())).unwrap();
    let here = ThreadingUnixStreamServer::bind(format!("unix:{}", abstract_name()), chat).unwrap();
    let here = here.spawn().unwrap();
    // On a Unix socket, written bytes are in the receiver's buffer at once.
    let mut alice = unix(here.local_addr());
    let sent: String = (0..1000).map(|line| format!("line {line}\n")).collect();
    alice.write_all(sent.as_bytes()).unwrap();
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
