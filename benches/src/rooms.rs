//! One chat room with the same number of members on one, two and three servers with Redis between
//! them, and on one server without Redis.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::cases::{Case, Load, Service};
use crate::load::{self, Outcome};
use crate::measure::{build_examples, in_rounds};
use crate::peers::LOCAL;
use crate::redis::Redis;
use crate::results::CaseResults;
use crate::server::Server;

/// The setups that are compared, by name.
const SETUPS: [(&str, Setup); 4] = [
    (LOCAL, Setup { servers: 1, through_redis: false }),
    ("redis-1", Setup { servers: 1, through_redis: true }),
    ("redis-2", Setup { servers: 2, through_redis: true }),
    ("redis-3", Setup { servers: 3, through_redis: true }),
];

#[derive(Clone, Copy)]
struct Setup {
    servers: usize,
    through_redis: bool,
}

pub(crate) fn measure(rounds: usize, measured: Duration) -> Result<Vec<CaseResults>, String> {
    let packages = ["socketserver", "socketserver-redis"];
    let examples = build_examples(&packages, &["chat", "redis_chat"])?;
    let cases = cases();
    let count = cases.len();
    let numbered = cases.into_iter().zip(1..);
    let results = numbered.map(|(case, number)| {
        in_rounds(rounds, case, &format!("[{number}/{count}]"), &SETUPS, |case, setup| {
            run_once(&case.load, *setup, &examples, measured)
        })
    });
    Ok(results.collect())
}

fn cases() -> [Case; 2] {
    [
        (
            "room",
            "one room of 90 members, 9 of which send as fast as they can: 64 lines in flight from each",
            64,
        ),
        ("room-turns", "the same, with a new line when all members have the previous one", 1),
    ]
    .map(|(name, about, in_flight)| Case {
        name: name.to_owned(),
        about: about.to_owned(),
        service: Service::Chat,
        workers: None,
        load: Load::Room { members: 90, senders: 9, in_flight },
        point: None,
    })
}

fn run_once(load: &Load, setup: Setup, examples: &Path, measured: Duration) -> Outcome {
    let mut redis = if setup.through_redis { Some(Redis::start()?) } else { None };
    let command = command(examples, redis.as_ref());
    let started = (0..setup.servers).map(|_| Server::start(&command));
    let mut servers = started.collect::<Result<Vec<Server>, String>>()?;
    let outcome = load::spawn(load, &servers, redis.as_ref().map(Redis::pid), measured);
    if outcome.is_ok() {
        servers.iter_mut().try_for_each(Server::check_running)?;
        redis.iter_mut().try_for_each(Redis::check_running)?;
    }
    outcome
}

fn command(examples: &Path, redis: Option<&Redis>) -> Command {
    let program = if redis.is_some() { "redis_chat" } else { "chat" };
    let mut command = Command::new(examples.join(program));
    command.args(["--listen", "127.0.0.1:0", "--mixin", "threading"]);
    if let Some(redis) = redis {
        command.args(["--backplane", &redis.url(), "--room", "benches"]);
    }
    command
}
