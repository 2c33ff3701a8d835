//! The forking server, in a process of its own, since a process with threads cannot safely fork.
//! The process runs the same program.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::{pipe, raise};
use socketserver::{Endpoint, Forking, HandlerError, TcpServer};

use crate::servers::STOP_TIMEOUT;
use crate::servers::{Concurrency, KINDS, Lines};
use crate::{TIMEOUT, tally};

/// The flag for [`serve`], which `--help` does not list.
pub(crate) const FLAG: &str = "forking-server";

/// Starts the process of the server; returns it and its address.
pub(crate) fn start(endpoint: &Endpoint) -> Result<(Child, Endpoint), HandlerError> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([format!("--{FLAG}"), endpoint.to_string()])
        // Ctrl-C at the terminal must signal the parent process only.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut address)?;
    Ok((child, address.trim().parse()?))
}

/// Runs the server, in its process.
pub(crate) fn serve(endpoint: &str) -> Result<(), HandlerError> {
    let kind = KINDS
        .iter()
        .find(|kind| kind.concurrency == Concurrency::Processes)
        .ok_or("no such kind")?;
    let parent = getppid();
    let server = kind
        .settings(TcpServer::builder().mixin(Forking::new()))
        .stop_timeout(STOP_TIMEOUT)
        .service_actions(Duration::from_secs(1), move || {
            if getppid() != parent {
                let _ = raise(SIGTERM);
            }
        })
        .bind(endpoint, Lines)?;
    let handle = server.handle();
    pipe::register(SIGTERM, handle.shutdown_pipe()?)?;
    println!("{}", server.local_addr());
    server.serve_forever()?;
    // The server has stopped: this only returns the report.
    kind.audit(&handle.stop(Duration::ZERO), &handle);
    if tally::has_no_failures() { Ok(()) } else { Err("the forking server is not well".into()) }
}

/// Stops the process. Its exit status tells whether it has recorded a failure.
pub(crate) fn stop(mut child: Child) -> Result<(), HandlerError> {
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let deadline = Instant::now() + 2 * TIMEOUT;
    while Instant::now() < deadline {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("the server's {status}").into()),
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
    child.kill()?;
    child.wait()?;
    Err("the server did not stop".into())
}
