//! Servers in processes of their own, for tests of servers that fork, run out of something, or end
//! their process. A test program with such servers has its own `main`, and starts itself again as
//! each server: `play PART ARGUMENT`. At that time the process has one thread.

use std::io::Write;
use std::net::TcpStream;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::Signal;
use socketserver::extend::Mixin;
use socketserver::extend::Transport;
use socketserver::{Address, ConnectionInfo, Endpoint, Server, ServerHandle};

use super::TempDir;
use super::clients::tcp;
use super::process::{self, Ended, Process};

/// A server that this program can be: its name, and its `main`, which takes an argument.
pub(crate) type Part = (&'static str, fn(&str));

/// Plays the part that the arguments of this program name, if they name one.
pub(crate) fn play(parts: &[Part]) -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [play, name, argument] = &arguments[..] else { return None };
    if play != "play" {
        return None;
    }
    // The server does not survive the thread of the test that has started it.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    log_to_standard_error();
    let (_, main) = parts.iter().find(|part| part.0 == name).expect(name);
    main(argument);
    Some(ExitCode::SUCCESS)
}

/// Warnings and errors, one line each, for [`Ended::logged`].
fn log_to_standard_error() {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .format(|line, record| writeln!(line, "{}: {}", record.level(), record.args()))
        .init();
}

// The side of the server.

/// Serves until SIGTERM, and prints the counters and the report of the stop.
pub(crate) fn serve<T: Transport, M: Mixin>(server: Server<T, M>) {
    stop_on_sigterm(&server.handle());
    let handle = server.handle();
    handle.listeners().iter().for_each(|listener| announce(&listener.local_addr));
    server.serve_forever().unwrap();
    println!("{:?}", handle.stats());
    // The stop is over, and this returns its report.
    let report = handle.stop(Duration::ZERO);
    println!("drained {}, forced {}", report.drained, report.forced);
    for (what, connections) in [("killed", report.killed), ("stuck", report.stuck)] {
        for ConnectionInfo { id, peer, age, .. } in connections {
            println!("{what} {id} from {peer} after {} ms", age.as_millis());
        }
    }
}

pub(crate) fn announce(address: &Address) {
    println!("listening on {address}");
}

fn stop_on_sigterm(handle: &ServerHandle) {
    let pipe = handle.shutdown_pipe().unwrap();
    signal_hook::low_level::pipe::register(signal_hook::consts::SIGTERM, pipe).unwrap();
}

// The side of the test.

/// Compiles a library in C, by cc, for `LD_PRELOAD`.
pub(crate) fn preloadable(directory: &TempDir, source: &str) -> PathBuf {
    let (c, library) = (directory.join("preloaded.c"), directory.join("preloaded.so"));
    std::fs::write(&c, source).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).args([&library, &c]).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    library
}

/// A server in a process of its own, killed on drop.
pub(crate) struct ServerProcess {
    process: Process,
    pub(crate) address: String,
}

impl ServerProcess {
    #[track_caller]
    pub(crate) fn start(part: &str, argument: &str) -> ServerProcess {
        let this_program = std::env::current_exe().unwrap();
        ServerProcess::start_by(Command::new(this_program), part, argument)
    }

    /// By a command that starts this program, or a copy of it.
    #[track_caller]
    pub(crate) fn start_by(mut command: Command, part: &str, argument: &str) -> ServerProcess {
        command.args(["play", part, argument]);
        let process = Process::spawn(command);
        let address = process::listening_on(&process.line());
        ServerProcess { process, address }
    }

    /// The addresses of its listeners; the test has read no line before.
    pub(crate) fn addresses(&self, count: usize) -> Vec<Endpoint> {
        let others = (1..count).map(|_| process::listening_on(&self.line()).parse().unwrap());
        std::iter::once(self.endpoint()).chain(others).collect()
    }

    /// The next line of its output is this one.
    #[track_caller]
    pub(crate) fn reads(&self, expected: &str) {
        assert_eq!(self.line(), expected);
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.parse().unwrap()
    }

    pub(crate) fn client(&self) -> TcpStream {
        tcp(self.endpoint())
    }

    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended, and its children, which have its standard output too.
    #[track_caller]
    pub(crate) fn wait(self) -> Ended {
        let ended = self.process.wait();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended
    }

    /// Waits until this signal has killed it; returns its standard error.
    #[track_caller]
    pub(crate) fn dies_of(self, signal: Signal) -> String {
        let ended = self.process.wait();
        assert_eq!(ended.signal, Some(signal.as_raw()), "{ended:?}");
        ended.stderr
    }

    /// Kills it, but not its children, and waits until they have ended too.
    #[track_caller]
    pub(crate) fn kill(self) -> Ended {
        self.signal(Signal::KILL);
        self.process.wait()
    }
}

impl Deref for ServerProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Ended {
    /// The number of logged warnings and errors that contain this.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let is_log = |line: &&str| line.starts_with("WARN: ") || line.starts_with("ERROR: ");
        self.stderr.lines().filter(is_log).filter(|line| line.contains(text)).count()
    }

    /// A counter of the `Stats` that it has printed.
    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> u64 {
        let stats = self.lines().find(|line| line.starts_with("Stats {"));
        count_in(stats.unwrap_or_else(|| panic!("no counters in {self:?}")), name)
    }
}

/// One counter of a `Stats`, as `Debug` shows it.
#[track_caller]
pub(crate) fn count_in(stats: &str, name: &str) -> u64 {
    let mut counters = stats.split(['{', ',', '}']).filter_map(|counter| counter.split_once(": "));
    let counter = counters.find(|counter| counter.0.trim() == name);
    counter.unwrap_or_else(|| panic!("no {name} in {stats}")).1.trim().parse().unwrap()
}
