//! The servers to compare with, each as somebody would write it who knows what it is made with.

mod cpython;
mod std_threads;
mod tokio;

use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use lexopt::prelude::*;

use crate::cases::Service;

/// What newcomers are told, as by the `chat` example.
const GREETING: &str = "You're connected to the chat server\r\n";
const HELLO: &[u8] = b"Hello World!\n";

/// The servers, by name.
pub(crate) const SERVERS: [&str; 4] = ["socketserver", STD_THREADS, "tokio", CPYTHON];
/// What the others are compared with.
pub(crate) const STD_THREADS: &str = "std-threads";
/// What the others are compared with where a service is for processes.
pub(crate) const CPYTHON: &str = "cpython";

/// How to start a server; `None` where it has no such service. The examples are in a directory.
pub(crate) fn command(server: &str, service: Service, examples: &Path) -> Option<Command> {
    match server {
        "socketserver" => Some(example(service, examples)),
        CPYTHON => Some(cpython::command(service)),
        _ if service == Service::ForkingHello => None,
        peer => {
            let mut command = Command::new(std::env::current_exe().ok()?);
            let service = serde_json::to_string(&service).ok()?;
            command.args(["peer", peer, "--listen", "127.0.0.1:0", "--service"]);
            command.arg(service.trim_matches('"'));
            Some(command)
        }
    }
}

fn example(service: Service, examples: &Path) -> Command {
    let (name, listen, mixin) = match service {
        Service::Hello => ("hello", "127.0.0.1:0", "threading"),
        Service::ForkingHello => ("hello", "127.0.0.1:0", "forking"),
        Service::Echo => ("echo", "127.0.0.1:0", "threading"),
        Service::Chat => ("chat", "127.0.0.1:0", "threading"),
        Service::UdpEcho => ("echo", "udp://127.0.0.1:0", "sequential"),
        Service::ThreadingUdpEcho => ("echo", "udp://127.0.0.1:0", "threading"),
    };
    let mut command = Command::new(examples.join(name));
    command.args(["--listen", listen, "--mixin", mixin]);
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

/// The process itself: `peer std-threads|tokio --service SERVICE --listen ADDRESS`.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<ExitCode, lexopt::Error> {
    let (mut peer, mut service, mut listen) = (None, None, "127.0.0.1:0".to_owned());
    while let Some(argument) = parser.next()? {
        match argument {
            Value(name) => peer = Some(name.string()?),
            Long("listen") => listen = parser.value()?.string()?,
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
        Some("tokio") => tokio::serve(service, &listen),
        _ => return Err("a peer is std-threads or tokio".into()),
    };
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(format!("cannot serve: {error}").into()),
    }
}
