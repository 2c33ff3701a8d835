//! The servers to compare with, each in the usual style of its library.

mod cpython;
mod std_threads;
mod tokio;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use lexopt::prelude::*;

use crate::cases::{Case, Service};

/// The greeting of the `chat` example.
const GREETING: &str = "You're connected to the chat server\r\n";
const HELLO: &[u8] = b"Hello World!\n";

/// The servers, by name.
pub(crate) const SERVERS: [&str; 5] = [SOCKETSERVER, FIBERS, STD_THREADS, TOKIO, CPYTHON];
/// The library's examples with the mixin that the case names.
pub(crate) const SOCKETSERVER: &str = "socketserver";
/// The library's examples with `Fibers`.
pub(crate) const FIBERS: &str = "fibers";
/// The base of the comparison.
pub(crate) const STD_THREADS: &str = "std-threads";
/// The base for cases with a number of workers.
pub(crate) const TOKIO: &str = "tokio";
/// The base for cases with a process for each connection.
pub(crate) const CPYTHON: &str = "cpython";
/// The base for rooms: one server without Redis.
pub(crate) const LOCAL: &str = "local";

/// The command that starts a server for a case; `None` if the server has no part in the case.
/// `examples` is the directory of the library's built examples.
pub(crate) fn command(server: &str, case: &Case, examples: &Path) -> Option<Command> {
    let Case { service, workers, .. } = *case;
    let mut command = match server {
        _ if !supports(server, case) => return None,
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

fn supports(server: &str, case: &Case) -> bool {
    match case {
        Case { service: Service::ForkingHello, .. } => [SOCKETSERVER, CPYTHON].contains(&server),
        // One datagram at a time: fibers have nothing to add.
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

/// Whether this machine has what a server needs.
pub(crate) fn is_installed(server: &str) -> bool {
    server != CPYTHON
        || Command::new("python3")
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
}

/// The child, `peer std-threads|tokio --service SERVICE --listen ADDRESS`, for tokio also with
/// `--workers N`.
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
    let result = match peer.as_deref() {
        Some(STD_THREADS) => std_threads::serve(service, &listen),
        Some(TOKIO) => tokio::serve(service, workers, &listen),
        _ => return Err("a peer is std-threads or tokio".into()),
    };
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(format!("cannot serve: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::{cases, curves};

    /// The value of a flag in a server's command.
    fn flag_value(server: &str, case: &Case, flag: &str) -> Option<String> {
        let command = command(server, case, Path::new(""))?;
        let mut values = command.get_args().skip_while(|argument| *argument != flag).skip(1);
        values.next().map(|value| value.to_string_lossy().into_owned())
    }

    #[test]
    fn fibers_are_measured_wherever_threads_are() {
        for case in cases().into_iter().chain(curves()) {
            let mixin = |server| flag_value(server, &case, "--mixin").unwrap_or_default();
            let on_threads = mixin(SOCKETSERVER) == "threading" || case.workers.is_some();
            assert_eq!(mixin(FIBERS) == "fibers", on_threads, "{}", case.name);
        }
    }

    #[test]
    fn servers_get_the_number_of_workers() {
        for (name, workers) in [("workers-1", "1"), ("workers-2", "2")] {
            let case = cases().into_iter().find(|case| case.name == name).unwrap();
            for server in [FIBERS, TOKIO] {
                assert_eq!(
                    flag_value(server, &case, "--workers").as_deref(),
                    Some(workers),
                    "{server}"
                );
            }
        }
    }
}
