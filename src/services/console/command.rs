//! The commands of a [`Console`](super::Console).

use std::borrow::Cow;
use std::fmt::Write;
use std::time::Duration;

use super::reply::{Reply, Rows, Value};
use crate::{Activity, ConnectionInfo, ConnectionRate, ServerHandle};

/// The lines of `help`.
const HELP: [(&str, &str); 13] = [
    ("status", "the listeners, counters and limits"),
    ("connections [TEXT]", "the requests being served that contain the text, oldest first"),
    ("stuck", "those that do anything but read, the longest first"),
    ("disconnect NUMBER", "shuts a connection down"),
    ("suspend", "leaves new connections in the backlog"),
    ("resume", "accepts them again"),
    ("limit connections N", "how many requests are served at a time"),
    ("limit peer N|none", "how many of one peer"),
    ("rate N SECONDS|none", "how often one peer may connect"),
    ("metrics", "all counters and histograms, in Prometheus's format"),
    ("stop [SECONDS]", "stops the server"),
    ("help", "these lines; \"json\" before a command is for programs"),
    ("quit", "ends the connection"),
];

pub(super) enum Command {
    Status,
    Connections(String),
    Stuck,
    Disconnect(u64),
    Suspend(bool),
    LimitConnections(usize),
    LimitPeer(Option<usize>),
    Rate(Option<ConnectionRate>),
    Metrics,
    /// `None`: without waiting.
    Stop(Option<Duration>),
    Help,
    Quit,
}

impl Command {
    /// `None` for an empty line. The error is a sentence.
    pub(super) fn parse(line: &str) -> Result<Option<Command>, String> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let words: Vec<_> = rest.split_whitespace().collect();
        let command = match (name, &words[..]) {
            ("", []) => return Ok(None),
            ("status", []) => Command::Status,
            ("connections", _) => Command::Connections(rest.trim().to_owned()),
            ("stuck", []) => Command::Stuck,
            ("disconnect", [id]) => {
                let id = id.parse().map_err(|_| format!("{id} is no number of a connection"))?;
                Command::Disconnect(id)
            }
            ("suspend", []) => Command::Suspend(true),
            ("resume", []) => Command::Suspend(false),
            ("limit", ["connections", count]) => Command::LimitConnections(at_least_one(count)?),
            ("limit", ["peer", "none"]) => Command::LimitPeer(None),
            ("limit", ["peer", count]) => Command::LimitPeer(Some(at_least_one(count)?)),
            ("rate", ["none"]) => Command::Rate(None),
            ("rate", [count, time]) => {
                let connections = at_least_one(count)?.try_into().unwrap_or(u32::MAX);
                let per = seconds(time).filter(|per| !per.is_zero());
                let per = per.ok_or_else(|| format!("{time} is no time above zero, in seconds"))?;
                Command::Rate(Some(ConnectionRate { connections, per }))
            }
            ("metrics", []) => Command::Metrics,
            ("stop", []) => Command::Stop(None),
            ("stop", [time]) => {
                let timeout = seconds(time);
                Command::Stop(Some(timeout.ok_or_else(|| format!("{time} is no time in seconds"))?))
            }
            ("help", []) => Command::Help,
            ("quit", []) => Command::Quit,
            (name, _) => match HELP.iter().find(|(usage, _)| usage.split(' ').next() == Some(name))
            {
                Some((usage, _)) => return Err(format!("it is \"{usage}\"; see \"help\"")),
                None => return Err("no such command; see \"help\"".to_owned()),
            },
        };
        Ok(Some(command))
    }

    pub(super) fn run(self, server: &ServerHandle) -> Reply {
        match self {
            Command::Status => status(server),
            Command::Connections(text) => {
                let found = server.connections().into_iter().map(row);
                Reply::Rows(Rows::new(COLUMNS, found.filter(move |row| contain(row, &text))))
            }
            Command::Stuck => {
                let mut all = server.connections();
                all.retain(|request| request.activity != Activity::Reading);
                all.sort_by_key(|request| std::cmp::Reverse(request.activity_time));
                Reply::Rows(Rows::new(COLUMNS, all.into_iter().map(row)))
            }
            Command::Disconnect(id) if server.disconnect(id.into()) => Reply::Done,
            Command::Disconnect(_) => {
                Reply::Error(Cow::Borrowed("there is no connection of this number"))
            }
            Command::Suspend(true) => done(|| server.suspend()),
            Command::Suspend(false) => done(|| server.resume()),
            Command::LimitConnections(count) => done(|| server.set_max_connections(count)),
            Command::LimitPeer(count) => done(|| server.set_max_connections_per_peer(count)),
            Command::Rate(rate) => done(|| server.set_connection_rate(rate)),
            Command::Metrics => {
                let mut text = Vec::new();
                // A vector takes everything.
                let _ = server.stats().write_prometheus(&mut text);
                Reply::Text(String::from_utf8_lossy(&text).into_owned())
            }
            Command::Stop(None) => done(|| server.shutdown()),
            Command::Stop(Some(timeout)) => {
                let report = server.stop(timeout);
                let named = |all: &[ConnectionInfo]| {
                    all.iter()
                        .map(|request| format!("{} from {}", request.id, request.peer))
                        .collect()
                };
                Reply::Fields(vec![
                    ("drained", Value::Number(report.drained as u64)),
                    ("forced", Value::Number(report.forced as u64)),
                    ("killed", Value::List(named(&report.killed))),
                    ("stuck", Value::List(named(&report.stuck))),
                ])
            }
            Command::Help => {
                let mut text = String::new();
                for (usage, help) in HELP {
                    let _ = writeln!(text, "{usage:<21} {help}");
                }
                Reply::Text(text)
            }
            // The caller ends the connection.
            Command::Quit => Reply::Done,
        }
    }
}

fn done(change: impl FnOnce()) -> Reply {
    change();
    Reply::Done
}

fn status(server: &ServerHandle) -> Reply {
    let stats = server.stats();
    let state = match (server.is_stopping(), server.is_suspended()) {
        (true, _) => "stopping",
        (false, true) => "suspended",
        (false, false) => "serving",
    };
    let listeners = server.listeners();
    let mut fields = vec![
        ("state", Value::Text(state.to_owned())),
        ("process", Value::Number(u64::from(std::process::id()))),
        (
            "listeners",
            Value::List(listeners.iter().map(|listener| listener.local_addr.to_string()).collect()),
        ),
        ("max_connections", Value::Number(server.max_connections() as u64)),
        (
            "max_per_peer",
            server.max_connections_per_peer().map_or(Value::None, |max| Value::Number(max as u64)),
        ),
        (
            "rate_per_peer",
            server.connection_rate().map_or(Value::None, |rate| Value::Text(rate_text(rate))),
        ),
    ];
    let counters = [
        ("active", stats.active),
        ("accepted", stats.accepted),
        ("finished", stats.finished),
        ("refused", stats.refused),
        ("denied", stats.denied),
        ("failed", stats.failed),
        ("panicked", stats.panicked),
        ("accept_errors", stats.accept_errors),
        ("upstreams", stats.upstreams),
        ("upstream_errors", stats.upstream_errors),
        ("bytes_received", stats.bytes_received.sum()),
        ("bytes_sent", stats.bytes_sent.sum()),
    ];
    fields.extend(counters.map(|(name, value)| (name, Value::Number(value))));
    Reply::Fields(fields)
}

/// As the command `rate` takes it.
fn rate_text(rate: ConnectionRate) -> String {
    format!("{} {}", rate.connections, rate.per.as_secs_f64())
}

/// The columns of [`row`], and their widths.
const COLUMNS: &[(&str, usize)] =
    &[("number", 8), ("age", 10), ("activity", 20), ("for", 10), ("peer", 24), ("upstreams", 0)];

fn row(request: ConnectionInfo) -> Vec<Value> {
    vec![
        // Of few digits: a program reads it as a number.
        Value::Number(request.id.to_string().parse().unwrap_or(0)),
        Value::Time(request.age),
        Value::Text(request.activity.to_string()),
        Value::Time(request.activity_time),
        Value::Text(request.peer.to_string()),
        Value::List(request.upstreams.iter().map(ToString::to_string).collect()),
    ]
}

fn contain(row: &[Value], text: &str) -> bool {
    text.is_empty() || row.iter().any(|value| value.to_string().contains(text))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| format!("{text} is no number above zero"))
}

/// At most a thousand years, which cannot overflow the clock.
fn seconds(text: &str) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    (0.0..=3.2e10).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}
