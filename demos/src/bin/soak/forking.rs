//! The forking server: in a process of its own, since one with threads cannot safely fork. The
//! program starts itself once more for it.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getppid, kill_process};
use signal_hook::consts::SIGTERM;
use signal_hook::low_level::{pipe, raise};
use socketserver::{Endpoint, Forking, HandlerError, TcpServer};

use crate::servers::{KINDS, Lines, Who};
use crate::target::DEADLINE;
use crate::{PATIENCE, tally};

/// The flag for [`serve`], which `--help` does not tell of.
pub(crate) const FLAG: &str = "forking-server";

/// Starts the server's process, and says where it listens.
pub(crate) fn start(endpoint: &Endpoint) -> Result<(Child, Endpoint), HandlerError> {
    let mut child = Command::new(std::env::current_exe()?)
        .args([format!("--{FLAG}"), endpoint.to_string()])
        // Ctrl-C at the terminal is for this process alone.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut address = String::new();
    BufReader::new(child.stdout.take().ok_or("no pipe")?).read_line(&mut address)?;
    Ok((child, address.trim().parse()?))
}

/// What that process does.
pub(crate) fn serve(endpoint: &str) -> Result<(), HandlerError> {
    let kind = KINDS.iter().find(|kind| kind.who == Who::Processes).ok_or("no such kind")?;
    let parent = getppid();
    let server = kind
        .settings(TcpServer::builder().mixin(Forking::new()))
        .stop_deadline(DEADLINE)
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
    // It is over: this only asks for the report.
    kind.audit(&handle.stop(Duration::ZERO), &handle);
    if tally::all_is_well() { Ok(()) } else { Err("the forking server is not well".into()) }
}

/// Stops that process, which says by its status whether all was well.
pub(crate) fn stop(mut child: Child) -> Result<(), HandlerError> {
    kill_process(Pid::from_child(&child), Signal::TERM)?;
    let give_up = Instant::now() + 2 * PATIENCE;
    while Instant::now() < give_up {
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
