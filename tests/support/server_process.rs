//! Servers in processes of their own, for tests whose harness has no threads where there should be
//! none, or no limits where there should be some: such a test program is its own harness, and
//! starts itself again as each server, told by a name which part to play.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Write;
use std::net::TcpStream;
use std::ops::Deref;
use std::panic::catch_unwind;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use socketserver::transport::Transport;
use socketserver::{Address, ConnectionInfo, Endpoint, Mixin, Server, ServerHandle};

use crate::common::{bounded, tcp};
use crate::process::{self, Process};

/// A test: its name, and what it does.
pub(crate) type Case = (&'static str, fn());

/// What a process of this program can be told to be, with one argument.
pub(crate) type Part = (&'static str, fn(&str));

/// The `main` of such a test program: plays the part that it is told to, or runs the cases whose
/// names contain what it is told.
pub(crate) fn main(cases: &[Case], parts: &[Part]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, argument] = &arguments[..]
        && first == "play"
    {
        // A harness that is killed takes its servers along.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
        log_to_standard_error();
        let (_, play) = parts.iter().find(|part| part.0 == name).expect(name);
        play(argument);
        return ExitCode::SUCCESS;
    }
    let listing = arguments.iter().any(|argument| argument == "--list");
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    let wanted = cases.iter().filter(|(name, _)| filter.is_none_or(|f| name.contains(f.as_str())));
    let (mut passed, mut failed) = (0, 0);
    for (name, case) in wanted {
        if listing {
            println!("{name}: test");
            continue;
        }
        let bound = bounded();
        let ok = catch_unwind(case).is_ok();
        drop(bound);
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        passed += usize::from(ok);
        failed += usize::from(!ok);
    }
    if !listing {
        println!("\n{passed} passed, {failed} failed");
    }
    ExitCode::from(u8::from(failed > 0))
}

/// For [`Ended::logged`]: what is worth a warning, a line each.
fn log_to_standard_error() {
    env_logger::Builder::new()
        .filter_level(log::LevelFilter::Warn)
        .format(|line, record| writeln!(line, "{}: {}", record.level(), record.args()))
        .init();
}

// What the parts have in common.

/// Serves until `SIGTERM`, and tells what there is to tell on standard output.
pub(crate) fn serve<T: Transport, M: Mixin>(server: Server<T, M>) {
    stop_on_sigterm(&server.handle());
    announce(server.local_addr());
    let handle = server.handle();
    server.serve_forever().unwrap();
    println!("{:?}", handle.stats());
    // It is over: this only asks how it was.
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

// The harness's side.

/// A server in a process of its own, killed when it is dropped.
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
        let first = process.line();
        let address = first.strip_prefix("listening on ").expect(&first).to_owned();
        ServerProcess { process, address }
    }

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
        self.end()
    }

    /// Waits until it has ended, and its children: they have its standard output too.
    #[track_caller]
    pub(crate) fn end(self) -> Ended {
        let ended = self.process.wait();
        assert_eq!(ended.status, Some(0), "{ended:?}");
        Ended::of(&ended)
    }

    /// Waits until this signal has killed it; returns what it left on standard error.
    #[track_caller]
    pub(crate) fn dies(self, signal: Signal) -> String {
        let ended = self.process.wait();
        assert_eq!(ended.signal, Some(signal.as_raw()), "{ended:?}");
        ended.stderr
    }

    /// Kills it, its children not, and waits until those have ended too.
    #[track_caller]
    pub(crate) fn kill(self) -> Ended {
        self.signal(Signal::KILL);
        Ended::of(&self.process.wait())
    }
}

impl Deref for ServerProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// What a server left when it had ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) lines: Vec<String>,
    errors: String,
}

impl Ended {
    fn of(ended: &process::Ended) -> Ended {
        let lines = ended.text().lines().map(str::to_owned).collect();
        Ended { lines, errors: ended.stderr.clone() }
    }

    pub(crate) fn says(&self, line: &str) -> bool {
        self.lines.iter().any(|said| said == line)
    }

    /// How many warnings and errors it has logged that say this.
    pub(crate) fn logged(&self, text: &str) -> usize {
        let is_log = |line: &&str| line.starts_with("WARN: ") || line.starts_with("ERROR: ");
        self.errors.lines().filter(is_log).filter(|line| line.contains(text)).count()
    }

    #[track_caller]
    pub(crate) fn count(&self, name: &str) -> u64 {
        let stats = self.lines.iter().find(|line| line.starts_with("Stats {"));
        count_in(stats.unwrap_or_else(|| panic!("no counters in {self:?}")), name)
    }
}

/// One counter of a `Stats` as it is printed.
#[track_caller]
pub(crate) fn count_in(stats: &str, name: &str) -> u64 {
    let mut counters = stats.split(['{', ',', '}']).filter_map(|counter| counter.split_once(": "));
    let counter = counters.find(|counter| counter.0.trim() == name);
    counter.unwrap_or_else(|| panic!("no {name} in {stats}")).1.trim().parse().unwrap()
}

pub(crate) fn pid_of(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

/// What the system says about a process ([proc_pid_status(5)]), up to the first space.
///
/// [proc_pid_status(5)]: https://man7.org/linux/man-pages/man5/proc_pid_status.5.html
#[track_caller]
pub(crate) fn status_of(pid: Pid, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut fields = status.lines().filter_map(|line| line.split_once(":\t"));
    let value = fields.find(|(name, _)| *name == field).unwrap().1;
    value.split_whitespace().next().unwrap().to_owned()
}
