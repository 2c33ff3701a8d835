//! The servers to compare with, each as somebody would write it who knows what it is made with.

mod cpython;
mod std_threads;
mod tokio;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use lexopt::prelude::*;

use crate::cases::{Case, Service};

/// What newcomers are told, as by the `chat` example.
const GREETING: &str = "You're connected to the chat server\r\n";
const HELLO: &[u8] = b"Hello World!\n";

/// The servers, by name.
pub(crate) const SERVERS: [&str; 5] = [SOCKETSERVER, FIBERS, STD_THREADS, TOKIO, CPYTHON];
/// The library's examples, with its other mixins,
pub(crate) const SOCKETSERVER: &str = "socketserver";
/// and under `Fibers`.
pub(crate) const FIBERS: &str = "fibers";
/// What the others are compared with.
pub(crate) const STD_THREADS: &str = "std-threads";
/// What fibers are compared with where a server is to run on so many threads.
pub(crate) const TOKIO: &str = "tokio";
/// What the others are compared with where a service is for processes.
pub(crate) const CPYTHON: &str = "cpython";
/// A room on one server alone, with which it is compared where it is on several.
pub(crate) const LOCAL: &str = "local";

/// How to start a server for a case; `None` where there is no such one. The examples are in a
/// directory.
pub(crate) fn command(server: &str, case: &Case, examples: &Path) -> Option<Command> {
    let Case { service, workers, .. } = *case;
    let mut command = match server {
        _ if !takes_part(server, case) => return None,
        SOCKETSERVER | FIBERS => example(service, server == FIBERS, examples),
        CPYTHON => cpython::command(service),
        peer => {
            let mut command = Command::new(std::env::current_exe().ok()?);
            let service = serde_json::to_string(&service).ok()?;
            command.args(["peer", peer, "--listen", "127.0.0.1:0", "--service"]);
            command.arg(service.trim_matches('"'));
            command
        }
    };
    if let Some(workers) = workers {
        command.args(["--workers", &workers.to_string()]);
    }
    Some(command)
}

fn takes_part(server: &str, case: &Case) -> bool {
    match case {
        Case { service: Service::ForkingHello, .. } => [SOCKETSERVER, CPYTHON].contains(&server),
        // What is done one after the other needs no fibers.
        Case { service: Service::UdpEcho, .. } => server != FIBERS,
        Case { workers: Some(_), .. } => [FIBERS, TOKIO].contains(&server),
        _ => true,
    }
}

fn example(service: Service, on_fibers: bool, examples: &Path) -> Command {
    let (name, listen, mixin) = match service {
        Service::Hello => ("hello", "127.0.0.1:0", "threading"),
        Service::ForkingHello => ("hello", "127.0.0.1:0", "forking"),
        Service::Echo => ("echo", "127.0.0.1:0", "threading"),
        Service::Chat => ("chat", "127.0.0.1:0", "threading"),
        Service::UdpEcho => ("echo", "udp://127.0.0.1:0", "sequential"),
        Service::ThreadingUdpEcho => ("echo", "udp://127.0.0.1:0", "threading"),
    };
    let mut command = Command::new(examples.join(name));
    command.args(["--listen", listen, "--mixin", if on_fibers { "fibers" } else { mixin }]);
    if listen.starts_with("udp://") {
        command.args(["--max-rate", "0"]);
    }
    command
}

/// Whether a server can be had on this machine.
pub(crate) fn is_there(server: &str) -> bool {
    server != CPYTHON
        || Command::new("python3")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// The process itself: `peer std-threads|tokio --service SERVICE --listen ADDRESS`, and
/// `--workers N` for tokio.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<ExitCode, lexopt::Error> {
    let (mut peer, mut service, mut workers) = (None, None, None);
    let mut listen = "127.0.0.1:0".to_owned();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => peer = Some(name.string()?),
            Long("listen") => listen = parser.value()?.string()?,
            Long("workers") => workers = Some(parser.value()?.parse()?),
            Long("service") => {
                let named = |name: &str| serde_json::from_value(name.into());
                service = Some(parser.value()?.parse_with(named)?);
            }
            other => return Err(other.unexpected()),
        }
    }
    let service = service.ok_or("a peer needs --service")?;
    let ended = match peer.as_deref() {
        Some(STD_THREADS) => std_threads::serve(service, &listen),
        Some(TOKIO) => tokio::serve(service, workers, &listen),
        _ => return Err("a peer is std-threads or tokio".into()),
    };
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(format!("cannot serve: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{cases, curves};

    /// What a server is told with a flag.
    fn told(server: &str, case: &Case, flag: &str) -> Option<String> {
        let command = command(server, case, Path::new(""))?;
        let mut behind = command.get_args().skip_while(|argument| *argument != flag).skip(1);
        behind.next().map(|value| value.to_string_lossy().into_owned())
    }

    #[test]
    fn fibers_are_measured_wherever_threads_are() {
        for case in cases().into_iter().chain(curves()) {
            let mixin = |server| told(server, &case, "--mixin").unwrap_or_default();
            let on_threads = mixin(SOCKETSERVER) == "threading" || case.workers.is_some();
            assert_eq!(mixin(FIBERS) == "fibers", on_threads, "{}", case.name);
        }
    }

    #[test]
    fn a_server_is_told_how_many_threads_it_has() {
        for (name, workers) in [("workers-1", "1"), ("workers-2", "2")] {
            let case = cases().into_iter().find(|case| case.name == name).unwrap();
            for server in [FIBERS, TOKIO] {
                assert_eq!(told(server, &case, "--workers").as_deref(), Some(workers), "{server}");
            }
        }
    }
}
