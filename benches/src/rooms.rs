//! One chat room, spread over one server, two and three by way of Redis, and on one with nothing
//! behind it: always the same members, as many at each server.

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

/// What is compared: a name, how many servers, and whether there is a Redis behind them.
const SPREADS: [(&str, Spread); 4] = [
    (LOCAL, Spread { servers: 1, through_redis: false }),
    ("redis-1", Spread { servers: 1, through_redis: true }),
    ("redis-2", Spread { servers: 2, through_redis: true }),
    ("redis-3", Spread { servers: 3, through_redis: true }),
];

#[derive(Clone, Copy)]
struct Spread {
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
        in_rounds(rounds, case, &format!("[{number}/{count}]"), &SPREADS, |case, spread| {
            run_once(&case.load, *spread, &examples, measured)
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
        ("room-turns", "the same, 9 of which send a line when everybody has the one before", 1),
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

fn run_once(load: &Load, spread: Spread, examples: &Path, measured: Duration) -> Outcome {
    let mut redis = if spread.through_redis { Some(Redis::start()?) } else { None };
    let command = command(examples, redis.as_ref());
    let started = (0..spread.servers).map(|_| Server::start(&command));
    let mut servers = started.collect::<Result<Vec<Server>, String>>()?;
    let outcome = load::spawn(load, &servers, redis.as_ref().map(Redis::pid), measured);
    if outcome.is_ok() {
        servers.iter_mut().try_for_each(Server::is_running)?;
        redis.iter_mut().try_for_each(Redis::is_running)?;
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
