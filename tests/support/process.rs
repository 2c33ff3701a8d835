//! Example programs as processes of their own: started, listened to, signalled and waited for,
//! each within bounds, and gone when the test is over.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use jiff::civil::DateTime;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, test_kill_process,
    waitid,
};
use socketserver::Endpoint;

use crate::common::PATIENCE;

/// The program of an example, which `cargo test` has built; `cargo test --test NAME` takes it as it
/// is, and needs a `cargo build --examples` before it.
pub(crate) fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    // From target/PROFILE/deps/THIS-TEST to target/PROFILE/examples/NAME.
    path.pop();
    path.pop();
    path.extend(["examples", name]);
    assert!(path.exists(), "{} is missing: cargo build --examples", path.display());
    let mut command = Command::new(path);
    command.env_remove("RUST_LOG");
    command
}

/// A running program.
pub(crate) struct Process {
    what: String,
    child: Child,
    has_ended: bool,
    stdin: Option<ChildStdin>,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
}

/// What a program left when it had ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None`: a signal killed it.
    pub(crate) status: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// What was not read before.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }
}

impl Process {
    /// Starts any program, with pipes for its input and output.
    #[track_caller]
    pub(crate) fn spawn(command: Command) -> Process {
        let (mut process, stdout) = Process::spawn_unread(command);
        process.stdout = lines_of(stdout);
        process
    }

    fn spawn_unread(mut command: Command) -> (Process, ChildStdout) {
        let what = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => panic!("{what} is not installed, and these tests need it"),
            _ => panic!("{what}: {error}"),
        });
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().unwrap();
        let stderr = lines_of(child.stderr.take().unwrap());
        let process = Process { what, child, has_ended: false, stdin, stdout: channel().1, stderr };
        (process, stdout)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Writes to its standard input.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdin.as_mut().expect("its input is open").write_all(bytes.as_ref()).unwrap();
    }

    /// The end of its standard input.
    pub(crate) fn end_of_input(&mut self) {
        self.stdin = None;
    }

    /// The next line of its standard output, without the end of it.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.next(&self.stdout, "standard output")
    }

    /// The next line of its standard error.
    #[track_caller]
    pub(crate) fn error_line(&self) -> String {
        self.next(&self.stderr, "standard error")
    }

    #[track_caller]
    fn next(&self, lines: &Receiver<Vec<u8>>, name: &str) -> String {
        let mut line = match lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{}: no line on {name}", self.what),
            Err(RecvTimeoutError::Disconnected) => {
                let errors: Vec<u8> = self.stderr.iter().flatten().collect();
                panic!("{}: {name} has ended: {}", self.what, errors.escape_ascii())
            }
        };
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        String::from_utf8(line).unwrap()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stands still, with all of its threads, until it is signalled to go on.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        // It is not there at once.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid()), options).unwrap();
    }

    /// Waits until it has ended, and every process that wrote to the same pipes.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        assert!(has_ended_within(self.pid(), PATIENCE), "{} does not end", self.what);
        let status = self.child.wait().unwrap();
        let (status, signal) = (status.code(), status.signal());
        self.has_ended = true;
        let stdout = self.rest(&self.stdout);
        let stderr = String::from_utf8(self.rest(&self.stderr)).unwrap();
        Ended { status, signal, stdout, stderr }
    }

    #[track_caller]
    fn rest(&self, lines: &Receiver<Vec<u8>>) -> Vec<u8> {
        let mut rest = Vec::new();
        loop {
            match lines.recv_timeout(PATIENCE) {
                Ok(line) => rest.extend(line),
                Err(RecvTimeoutError::Disconnected) => return rest,
                Err(RecvTimeoutError::Timeout) => panic!("{} left a child behind", self.what),
            }
        }
    }

    /// Its child processes, zombies included.
    pub(crate) fn children(&self) -> Vec<Pid> {
        children_of(self.pid())
    }
}

/// Nothing is left running, even by a test that has failed.
impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended {
            let children = self.children();
            let _ = self.child.kill();
            let _ = self.child.wait();
            for child in children {
                let _ = kill_process(child, Signal::KILL);
            }
        }
    }
}

/// Runs a program to its end, with this on its standard input.
#[track_caller]
pub(crate) fn run(command: Command, input: impl AsRef<[u8]>) -> Ended {
    let mut process = Process::spawn(command);
    // A program that has no use for its input may have ended before it is written.
    let _ = process.stdin.as_mut().map(|stdin| stdin.write_all(input.as_ref()));
    process.end_of_input();
    process.wait()
}

/// An example server that is listening.
pub(crate) struct Server {
    process: Process,
    address: String,
}

impl Server {
    /// Starts an example where nobody else listens.
    #[track_caller]
    pub(crate) fn start(name: &str, listen: &str, flags: &[&str]) -> Server {
        let mut command = example(name);
        command.args(["--listen", listen]).args(flags);
        Server::spawn(command)
    }

    #[track_caller]
    pub(crate) fn spawn(command: Command) -> Server {
        let process = Process::spawn(command);
        let first = process.line();
        let Some(address) = first.strip_prefix("listening on ") else {
            panic!("{}: the first line is {first:?}", process.what);
        };
        let address = address.to_owned();
        let second = process.line();
        assert!(second.starts_with("try: "), "{second}");
        Server { process, address }
    }

    /// Starts an example whose standard output is read no further than its first line.
    #[track_caller]
    pub(crate) fn start_unread(name: &str, listen: &str, flags: &[&str]) -> (Server, Unread) {
        let mut command = example(name);
        command.args(["--listen", listen]).args(flags);
        let (process, mut stdout) = Process::spawn_unread(command);
        let (sender, first_line) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while stdout.read_exact(&mut byte).is_ok() && byte != *b"\n" {
                line.push(byte[0]);
            }
            let _ = sender.send((line, stdout));
        });
        let (line, stdout) = first_line.recv_timeout(PATIENCE).expect("no first line");
        let line = String::from_utf8(line).unwrap();
        let address = line.strip_prefix("listening on ").expect(&line).to_owned();
        (Server { process, address }, Unread(stdout))
    }

    /// Where it listens, as it said.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens, to connect to.
    #[track_caller]
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.parse().unwrap()
    }

    /// The host and the port, for clients that take them apart.
    #[track_caller]
    pub(crate) fn host_and_port(&self) -> [String; 2] {
        let address = self.address.strip_prefix("udp://").unwrap_or(&self.address);
        let (host, port) = address.rsplit_once(':').unwrap();
        [host.trim_matches(['[', ']']).to_owned(), port.to_owned()]
    }

    /// The test goes on as if it had just begun to read.
    pub(crate) fn read(&mut self, unread: Unread) {
        self.process.stdout = lines_of(unread.0);
    }

    #[track_caller]
    pub(crate) fn ends(self) -> Ended {
        self.process.wait()
    }

    /// Ends it with a signal, gracefully: status 0, and nothing on standard error.
    #[track_caller]
    pub(crate) fn ends_by(self, signal: Signal) -> Ended {
        let begin = Instant::now();
        let what = self.process.what.clone();
        self.signal(signal);
        let ended = self.ends();
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{what}");
        // They wait ten seconds for their clients unless told otherwise.
        assert!(begin.elapsed() < Duration::from_secs(15), "{what}");
        ended
    }

    #[track_caller]
    pub(crate) fn stops(self) -> Ended {
        self.ends_by(Signal::TERM)
    }
}

impl std::ops::Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// A standard output that nobody reads, closed when this is dropped.
pub(crate) struct Unread(ChildStdout);

/// Lines with their ends, until the end.
fn lines_of(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        loop {
            let mut line = Vec::new();
            match pipe.read_until(b'\n', &mut line) {
                Ok(1..) if sender.send(line).is_ok() => {}
                _ => return,
            }
        }
    });
    lines
}

/// Whether a process, of whomever, is there; a zombie is.
pub(crate) fn exists(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

fn has_ended_within(pid: Pid, time: Duration) -> bool {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let give_up = Instant::now() + time;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready == 1,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let is_child = |pid: &Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        // The name, in parentheses, may contain anything; the parent is the second field after it.
        let stat = stat.unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        after_name.split(' ').nth(1) == Some(&parent.as_raw_nonzero().to_string())
    };
    let processes = std::fs::read_dir("/proc").unwrap();
    let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter(is_child).collect()
}

/// What follows `[Sat Nov 20 23:46:01 2026] `, whose time has to be now.
#[track_caller]
pub(crate) fn without_time(text: &str) -> &str {
    const FORM: &str = "%a %b %e %H:%M:%S %Y";
    let (time, rest) = text.strip_prefix('[').unwrap().split_once("] ").unwrap();
    let parsed = DateTime::strptime(FORM, time).unwrap();
    // Two places for the day, and all that.
    assert_eq!(parsed.strftime(FORM).to_string(), time);
    assert_eq!(time.len(), "Sat Nov 20 23:46:01 2026".len(), "{time}");
    // Longer than a test takes, and the hour by which some clocks are changed.
    let off = jiff::Zoned::now().datetime().duration_since(parsed);
    assert!(off.abs().as_secs() <= 3700, "{time}");
    rest
}
