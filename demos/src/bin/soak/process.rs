//! A server in a process of its own, which runs the same program: a server that forks, since a
//! process with threads cannot safely do so, and with `--freeze` every server.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, getpid, getppid, kill_process, kill_process_group, test_kill_process,
};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::pipe;
use socketserver::extend::{Mixin, Transport};
use socketserver::transport::{Tcp, Udp};
use socketserver::{Endpoint, HandlerError, IntoHandler, Scheme, Sequential, Server, ServerHandle};

use crate::servers::STOP_TIMEOUT;
use crate::servers::{KINDS, Kind, Lines};
use crate::tally::Resources;
use crate::{TIMEOUT, settled, tally};

/// The flag for [`serve`], which `--help` does not list. Its value is the name of a kind, and the
/// flag is followed by an address.
pub(crate) const FLAG: &str = "serve";

/// The process of a server, and of its children.
pub(crate) struct ServerProcess {
    child: Child,
    /// `None` for a forking server, which has no thread to read it.
    commands: Option<ChildStdin>,
}

impl ServerProcess {
    /// Returns the server's address too.
    pub(crate) fn start(
        kind: &Kind,
        endpoint: &Endpoint,
    ) -> Result<(ServerProcess, Endpoint), HandlerError> {
        let is_forking = kind.concurrency.forking().is_some();
        let mut child = Command::new(std::env::current_exe()?)
            .args([&format!("--{FLAG}"), kind.name, &endpoint.to_string()])
            // Ctrl-C at the terminal must signal the parent process only. If that is killed, the
            // kernel ends this group, even one that is stopped.
            .process_group(0)
            .stdin(if is_forking { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut address)?;
        let commands = child.stdin.take();
        Ok((ServerProcess { child, commands }, address.trim().parse()?))
    }

    /// Whether the server has been sent the command, which [`obey`] lists.
    pub(crate) fn send(&self, command: &str) -> bool {
        let write = |mut commands: &ChildStdin| writeln!(commands, "{command}");
        self.commands.as_ref().is_some_and(|commands| write(commands).is_ok())
    }

    /// The group of its processes.
    pub(crate) fn group(&self) -> ProcessGroup {
        ProcessGroup(Pid::from_child(&self.child))
    }

    /// Stops the server. The exit status tells whether it has recorded a failure.
    pub(crate) fn stop(mut self) -> Result<(), HandlerError> {
        match self.commands.take() {
            Some(commands) => drop(commands),
            None => kill_process(Pid::from_child(&self.child), Signal::TERM)?,
        }
        let deadline = Instant::now() + 2 * TIMEOUT;
        while Instant::now() < deadline {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the server's {status}").into()),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
        self.child.kill()?;
        self.child.wait()?;
        Err("the server did not stop".into())
    }
}

/// It cannot end between [`freeze`](ProcessGroup::freeze) and [`thaw`](ProcessGroup::thaw).
pub(crate) struct ProcessGroup(Pid);

impl ProcessGroup {
    pub(crate) fn freeze(&self) -> io::Result<()> {
        Ok(kill_process_group(self.0, Signal::STOP)?)
    }

    pub(crate) fn thaw(&self) -> io::Result<()> {
        Ok(kill_process_group(self.0, Signal::CONT)?)
    }
}

/// Runs the server, in its process.
pub(crate) fn serve(name: &str, endpoint: &str) -> Result<(), HandlerError> {
    let kind = KINDS.iter().find(|kind| kind.name == name).ok_or("no such kind")?;
    let endpoint: Endpoint = endpoint.parse()?;
    match (kind.concurrency.forking(), kind.scheme) {
        (Some(mixin), Scheme::Udp) => serve_forking::<Udp>(kind, mixin, &endpoint, Lines)?,
        (Some(mixin), _) => serve_forking::<Tcp>(kind, mixin, &endpoint, Lines)?,
        (None, _) => serve_commanded(kind, &endpoint)?,
    }
    if tally::has_no_failures() { Ok(()) } else { Err(format!("{name}: not well").into()) }
}

fn serve_forking<T: Transport>(
    kind: &Kind,
    mixin: Box<dyn Mixin>,
    endpoint: &Endpoint,
    handler: impl IntoHandler<T::Handler>,
) -> Result<(), HandlerError> {
    let (soak, server) = (getppid().ok_or("no parent")?, getpid());
    let server = kind
        .settings(Server::<T, Sequential>::builder().mixin(mixin))
        .stop_timeout(STOP_TIMEOUT)
        // Under `Prefork` the children call it.
        .service_actions(Duration::from_secs(1), move || {
            if test_kill_process(soak).is_err() {
                let _ = kill_process(server, Signal::TERM);
            }
        })
        .bind(endpoint.clone(), handler)?;
    let handle = server.handle();
    pipe::register(SIGTERM, handle.shutdown_pipe()?)?;
    println!("{}", server.local_addr());
    server.serve_forever()?;
    // The server has stopped: this only returns the report.
    kind.audit(&handle.stop(Duration::ZERO), &handle);
    Ok(())
}

/// Serves until standard input ends.
fn serve_commanded(kind: &Kind, endpoint: &Endpoint) -> Result<(), HandlerError> {
    let before = Resources::now();
    let server = kind.spawn(endpoint)?;
    println!("{}", server.local_addr());
    let handle = server.handle();
    for command in io::stdin().lines() {
        obey(&command?, &handle)?;
    }
    kind.audit(&server.stop(STOP_TIMEOUT), &handle);
    drop(handle);
    let after = settled(before);
    if after != before {
        tally::record_failure(format!("{}: leaks: {before:?}, then {after:?}", kind.name));
    }
    Ok(())
}

fn obey(command: &str, server: &ServerHandle) -> Result<(), HandlerError> {
    match command {
        "suspend" => server.suspend(),
        "resume" => server.resume(),
        limit => server.set_max_connections(limit.parse()?),
    }
    Ok(())
}
