//! The clients: one or two threads that send, receive and compare. They are a process of their own,
//! so that their processor time is counted apart from the server's.

mod chat;
mod echo;
mod hello;
mod idle;
mod latencies;
mod net;
mod order;
mod payload;
mod room;
mod stop;
#[cfg(test)]
mod tests;
mod two_threads;
mod udp;
mod window;

use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use lexopt::prelude::*;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::cases::Load;
use crate::child::{tied_to_parent, wait_for_exit};
use crate::server::Server;

/// A run fails when nothing has arrived for this long.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(10);
/// The clients are killed after this time.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// A server, and how long to measure it.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    pub(crate) measured: Duration,
}

/// The result of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// In the unit of the case's [`Measure`](crate::cases::Measure).
    pub(crate) value: f64,
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    /// Processor time of all servers for each operation.
    pub(crate) server_cpu_us: Option<f64>,
    /// Processor time of Redis for each operation, where the servers share one.
    #[serde(default)]
    pub(crate) broker_cpu_us: Option<f64>,
    /// Processor time of the clients for each operation. If it is all of the run's time, the
    /// clients are the bottleneck.
    pub(crate) load_cpu_us: Option<f64>,
    /// Datagrams without an answer.
    pub(crate) lost: u64,
}

/// The error names the byte, line or client that was wrong.
pub(crate) type Outcome = Result<Figures, String>;

/// Runs a load in a child process. Only a room has several servers, and the PID of a Redis between
/// them.
pub(crate) fn spawn(
    load: &Load,
    servers: &[Server],
    broker: Option<u32>,
    measured: Duration,
) -> Outcome {
    let plan = serde_json::to_string(load).map_err(|error| error.to_string())?;
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(own);
    command.args(["load", &plan]);
    for server in servers {
        command.args(["--address", &server.address.to_string()]);
        command.args(["--server", &server.pid().to_string()]);
    }
    if let Some(broker) = broker {
        command.args(["--broker", &broker.to_string()]);
    }
    command.args(["--seconds", &measured.as_secs_f64().to_string()]);
    let mut command = tied_to_parent(&command)?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut child = child.map_err(|error| format!("cannot start the clients: {error}"))?;
    // The one line of output fits into the pipe: the child exits before it is read.
    if !wait_for_exit(&child, RUN_TIMEOUT) {
        let _ = child.kill();
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| Err(format!("the clients ended without a result: {}", output.status)))
}

/// The child, `load PLAN --address ADDRESS --server PID --seconds SECONDS`: the plan is a [`Load`]
/// as JSON. A room has an address and a PID for each server, and `--broker PID` for its Redis.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<ExitCode, lexopt::Error> {
    let (mut plan, mut addresses, mut servers) = (None, Vec::new(), Vec::new());
    let (mut broker, mut seconds) = (None, 2.0);
    while let Some(argument) = parser.next()? {
        match argument {
            Value(text) => {
                let plan_of = |text: &str| serde_json::from_str::<Load>(text);
                plan = Some(text.parse_with(plan_of)?);
            }
            Long("address") => addresses.push(parser.value()?.parse()?),
            Long("server") => servers.push(parser.value()?.parse()?),
            Long("broker") => broker = Some(parser.value()?.parse()?),
            Long("seconds") => seconds = parser.value()?.parse()?,
            other => return Err(other.unexpected()),
        }
    }
    let measured = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
    let targets: Vec<Target> = addresses
        .into_iter()
        .zip(servers)
        .map(|(address, pid)| Target { address, pid, measured })
        .collect();
    let (Some(plan), [_, ..]) = (plan, &targets[..]) else {
        return Err("load needs a plan, --address and --server".into());
    };
    let outcome = run(&plan, &targets, broker);
    println!("{}", serde_json::json!(outcome));
    Ok(if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(load: &Load, servers: &[Target], broker: Option<u32>) -> Outcome {
    let &[target, ..] = servers else { return Err("there is no server".to_owned()) };
    match *load {
        Load::Hello { in_flight } => hello::run(in_flight, target),
        Load::Echo { connections, size, in_flight } => {
            echo::run(connections, size, in_flight, target)
        }
        Load::EchoFromTwo { connections, size, in_flight } => {
            two_threads::echo(connections, size, in_flight, target)
        }
        Load::Flood { in_flight } => two_threads::flood(in_flight, target),
        Load::Chat { clients, senders, in_flight } => {
            chat::run(clients, senders, in_flight, target)
        }
        Load::Room { members, senders, in_flight } => {
            room::run(members, senders, in_flight, servers, broker)
        }
        Load::Udp { sockets, in_flight } => udp::run(sockets, in_flight, target),
        Load::Idle { connections } => idle::run(connections, target),
        Load::Stop { connections } => stop::run(connections, target),
    }
}

/// Raises the limit on open descriptors to its maximum, which the servers inherit, and returns how
/// many connections it allows.
pub(crate) fn raise_descriptor_limit() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // Keeps at least what the library keeps for other descriptors.
    usize::try_from(limit.saturating_sub((limit / 16).max(64))).unwrap_or(usize::MAX)
}

/// Adds the connection's number to an error.
fn on_connection<T>(index: usize, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("connection {index}: {error}"))
}
