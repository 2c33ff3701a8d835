//! Programs as processes: started, read from, signalled and waited for, each within bounds, and
//! killed on drop.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, test_kill_process, waitid,
};
use socketserver::Endpoint;

use super::TIMEOUT;

/// The program of an example, which `cargo test` builds; `cargo test --test NAME` takes it as it is,
/// and needs a `cargo build --examples` before it.
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
    name: String,
    child: Child,
    has_ended: bool,
    stdin: Option<ChildStdin>,
    stdout: Output,
    stderr: Output,
    pieces: Receiver<(Pipe, Vec<u8>)>,
    sender: Sender<(Pipe, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pipe {
    Stdout,
    Stderr,
}

/// What has been received from a pipe and not been read by the test.
#[derive(Default)]
struct Output {
    bytes: RefCell<Vec<u8>>,
    is_open: Cell<bool>,
}

/// What a program left when it had ended.
pub(crate) struct Ended {
    /// `None`: a signal killed it.
    pub(crate) status: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// What the test had not read before.
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

/// The output as text: it is what a failed test shows.
impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ended")
            .field("status", &self.status)
            .field("signal", &self.signal)
            .field("stdout", &String::from_utf8_lossy(&self.stdout))
            .field("stderr", &self.stderr)
            .finish()
    }
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.stdout).unwrap()
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = &str> {
        self.text().lines()
    }

    /// Whether this was a line of the standard output.
    pub(crate) fn says(&self, line: &str) -> bool {
        self.lines().any(|said| said == line)
    }
}

impl Process {
    /// Starts any program, with pipes for its input and output.
    #[track_caller]
    pub(crate) fn spawn(command: Command) -> Process {
        let (process, stdout) = Process::spawn_into(command, Stdio::piped());
        process.collect(Pipe::Stdout, stdout.unwrap());
        process
    }

    /// Starts a program with this standard output. If that is a pipe, its other end is returned.
    #[track_caller]
    pub(crate) fn spawn_into(
        mut command: Command,
        output: Stdio,
    ) -> (Process, Option<ChildStdout>) {
        let name = format!("{command:?}");
        command.stdin(Stdio::piped()).stdout(output).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stderr = child.stderr.take().unwrap();
        let (sender, pieces) = channel();
        let process = Process {
            name,
            child,
            has_ended: false,
            stdin,
            stdout: Output::default(),
            stderr: Output::default(),
            pieces,
            sender,
        };
        process.collect(Pipe::Stderr, stderr);
        (process, stdout)
    }

    fn output(&self, pipe: Pipe) -> &Output {
        match pipe {
            Pipe::Stdout => &self.stdout,
            Pipe::Stderr => &self.stderr,
        }
    }

    /// Reads a pipe to its end, which an empty piece tells.
    fn collect(&self, which: Pipe, mut pipe: impl Read + Send + 'static) {
        self.output(which).is_open.set(true);
        let sender = self.sender.clone();
        thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let length = pipe.read(&mut buffer).unwrap_or(0);
                if sender.send((which, buffer[..length].to_vec())).is_err() || length == 0 {
                    return;
                }
            }
        });
    }

    /// Waits for the next piece of output, or for the end of one of the pipes.
    #[track_caller]
    fn receive(&self) {
        let Ok((pipe, piece)) = self.pieces.recv_timeout(TIMEOUT) else {
            panic!("{} is silent, and does not end: {}", self.name, self.unread());
        };
        let output = self.output(pipe);
        output.is_open.set(!piece.is_empty());
        output.bytes.borrow_mut().extend(piece);
    }

    fn unread(&self) -> String {
        let [stdout, stderr] = [&self.stdout, &self.stderr].map(|output| output.bytes.borrow());
        format!("\"{}\", \"{}\"", stdout.escape_ascii(), stderr.escape_ascii())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Writes to its standard input.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stdin.as_mut().expect("its input is open").write_all(bytes.as_ref()).unwrap();
    }

    /// Closes its standard input.
    pub(crate) fn end_of_input(&mut self) {
        self.stdin = None;
    }

    /// The next line of its standard output, without its end.
    #[track_caller]
    pub(crate) fn line(&self) -> String {
        self.line_of(Pipe::Stdout)
    }

    /// The next line of its standard error.
    #[track_caller]
    pub(crate) fn error_line(&self) -> String {
        self.line_of(Pipe::Stderr)
    }

    #[track_caller]
    fn line_of(&self, pipe: Pipe) -> String {
        let output = self.output(pipe);
        loop {
            let end = output.bytes.borrow().iter().position(|byte| *byte == b'\n');
            if let Some(end) = end {
                let line = output.bytes.borrow_mut().drain(..=end).collect::<Vec<_>>();
                return str::from_utf8(&line[..end]).unwrap().to_owned();
            }
            assert!(output.is_open.get(), "{}: {pipe:?} has ended: {}", self.name, self.unread());
            self.receive();
        }
    }

    /// Waits for a text on either output, and drops everything up to its end.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        loop {
            for output in [&self.stdout, &self.stderr] {
                let mut bytes = output.bytes.borrow_mut();
                let at = bytes.windows(text.len()).position(|window| window == text.as_bytes());
                if let Some(at) = at {
                    bytes.drain(..at + text.len());
                    return;
                }
            }
            assert!(self.is_open(), "{} ended without {text:?}: {}", self.name, self.unread());
            self.receive();
        }
    }

    fn is_open(&self) -> bool {
        self.stdout.is_open.get() || self.stderr.is_open.get()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops all of its threads (`SIGSTOP`), until it is sent `SIGCONT`.
    #[track_caller]
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        // The system stops its threads some time after the signal was sent.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(self.pid()), options).unwrap();
    }

    /// Waits until it has ended, and every process that has its outputs open.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        assert!(has_ended_within(self.pid(), TIMEOUT), "{} does not end", self.name);
        let status = self.child.wait().unwrap();
        let (status, signal) = (status.code(), status.signal());
        self.has_ended = true;
        while self.is_open() {
            self.receive();
        }
        let stdout = self.stdout.bytes.take();
        let stderr = String::from_utf8(self.stderr.bytes.take()).unwrap();
        Ended { status, signal, stdout, stderr }
    }

    /// Writes the last of its input, and waits until it has ended.
    #[track_caller]
    pub(crate) fn finish(mut self, input: impl AsRef<[u8]>) -> Ended {
        // A program that does not need its input may end before all of it is written.
        let _ = self.stdin.take().map(|mut stdin| stdin.write_all(input.as_ref()));
        self.wait()
    }

    /// Its child processes, zombies included.
    pub(crate) fn children(&self) -> Vec<Pid> {
        children_of(self.pid())
    }
}

/// No process is left running by a test that has failed.
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
    Process::spawn(command).finish(input)
}

/// An example server that is listening.
pub(crate) struct Server {
    process: Process,
    address: String,
}

impl Server {
    /// Starts an example at an address.
    #[track_caller]
    pub(crate) fn start(name: &str, listen: &str, flags: &[&str]) -> Server {
        let mut command = example(name);
        command.args(["--listen", listen]).args(flags);
        Server::spawn(command)
    }

    #[track_caller]
    pub(crate) fn spawn(command: Command) -> Server {
        let process = Process::spawn(command);
        let address = listening_on(&process.line());
        let second = process.line();
        assert!(second.starts_with("try: "), "{second}");
        Server { process, address }
    }

    /// Starts an example whose standard output is read up to the end of its first line.
    #[track_caller]
    pub(crate) fn start_unread(name: &str, listen: &str, flags: &[&str]) -> (Server, Unread) {
        let mut command = example(name);
        command.args(["--listen", listen]).args(flags);
        let (process, stdout) = Process::spawn_into(command, Stdio::piped());
        let mut stdout = stdout.unwrap();
        let (sender, first_line) = channel();
        thread::spawn(move || {
            let mut line = Vec::new();
            let mut byte = [0];
            while stdout.read_exact(&mut byte).is_ok() && byte != *b"\n" {
                line.push(byte[0]);
            }
            let _ = sender.send((line, stdout));
        });
        let (line, stdout) = first_line.recv_timeout(TIMEOUT).expect("a first line");
        let address = listening_on(str::from_utf8(&line).unwrap());
        (Server { process, address }, Unread(stdout))
    }

    /// Reads its standard output from now on.
    pub(crate) fn read(&self, unread: Unread) {
        self.process.collect(Pipe::Stdout, unread.0);
    }

    /// The address that it announced.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    #[track_caller]
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.address.parse().unwrap()
    }

    /// Host and port, for clients that take two arguments.
    #[track_caller]
    pub(crate) fn host_and_port(&self) -> [String; 2] {
        let address = self.address.strip_prefix("udp://").unwrap_or(&self.address);
        let (host, port) = address.rsplit_once(':').unwrap();
        [host.trim_matches(['[', ']']).to_owned(), port.to_owned()]
    }

    /// Waits until it has ended.
    #[track_caller]
    pub(crate) fn wait(self) -> Ended {
        self.process.wait()
    }

    /// Stops it by a signal, gracefully: status 0, and nothing on standard error.
    #[track_caller]
    pub(crate) fn stop_by(self, signal: Signal) -> Ended {
        let begin = Instant::now();
        let name = self.process.name.clone();
        self.signal(signal);
        let ended = self.wait();
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{name}");
        // An example waits ten seconds for its connections, unless told otherwise.
        assert!(begin.elapsed() < Duration::from_secs(15), "{name}");
        ended
    }

    #[track_caller]
    pub(crate) fn stop(self) -> Ended {
        self.stop_by(Signal::TERM)
    }
}

/// The address in the first line of a server's output.
#[track_caller]
pub(crate) fn listening_on(line: &str) -> String {
    line.strip_prefix("listening on ").expect(line).to_owned()
}

impl std::ops::Deref for Server {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// A standard output that the test does not read; dropping it closes it.
pub(crate) struct Unread(ChildStdout);

/// Whether there is such a process, or a zombie.
pub(crate) fn exists(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

/// Whether a child of this process has ended, without reaping it.
pub(crate) fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::Pid(pid), options).unwrap().is_some()
}

fn has_ended_within(pid: Pid, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    while !has_ended(pid) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        wait_for_exit(pid, left);
    }
    true
}

#[cfg(target_os = "linux")]
fn wait_for_exit(pid: Pid, time: Duration) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{PidfdFlags, pidfd_open};
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let time = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => panic!("poll: {error}"),
    }
}

/// Elsewhere there is nothing to wait for.
#[cfg(not(target_os = "linux"))]
fn wait_for_exit(_pid: Pid, time: Duration) {
    thread::sleep(time.min(Duration::from_millis(2)));
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
