//! The flag `--console`: the server's state and limits, for its administrator.

use std::error::Error;
use std::io::{self, ErrorKind, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use socketserver::services::Console;
use socketserver::{Endpoint, RunningServer, ServerHandle, ThreadingUnixStreamServer};

use super::flags::{Flag, Values};
use super::hand_over::predecessor;
use super::mixin::Choice;
use super::usage_error;

pub(super) const FLAG: Flag<'static> =
    Flag("console", "PATH", "a Unix socket to ask and command the server by; none by default");

/// How often a successor tries to bind to the path, which is its predecessor's until that has ended.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

pub(super) fn of(values: &Values, mixin: Choice) -> Result<Option<Endpoint>, Box<dyn Error>> {
    let Some(address) = values.last(FLAG.0) else { return Ok(None) };
    let endpoint: Endpoint = address.parse()?;
    if !endpoint.is_unix() {
        return Err(usage_error(format!("--console {address}: not a Unix socket")));
    }
    if !mixin.is_spawnable() || values.last("listen") == Some("inetd") {
        let why = "it needs a thread beside the server, which forks";
        return Err(usage_error(format!("--console cannot work here: {why}")));
    }
    Ok(Some(endpoint))
}

/// The console, for as long as this is kept.
pub(super) struct Running(Arc<Mutex<Option<RunningServer>>>);

pub(super) fn serve(
    address: Option<&Endpoint>,
    server: &ServerHandle,
) -> Result<Option<Running>, Box<dyn Error>> {
    let Some(address) = address.cloned() else { return Ok(None) };
    let running = Running(Arc::default());
    let (console, server) = (running.0.clone(), server.clone());
    if predecessor().is_none() {
        *console.lock().unwrap() = Some(start(&address, &server)?);
        return Ok(Some(running));
    }
    thread::Builder::new().name("console".to_owned()).spawn(move || {
        loop {
            match start(&address, &server) {
                Ok(started) => return *console.lock().unwrap() = Some(started),
                Err(socketserver::Error::Bind { source, .. })
                    if source.kind() == ErrorKind::AddrInUse && !server.is_stopping() =>
                {
                    thread::sleep(RETRY_INTERVAL);
                }
                Err(error) => return log::error!("no console: {error}"),
            }
        }
    })?;
    Ok(Some(running))
}

fn start(address: &Endpoint, server: &ServerHandle) -> socketserver::Result<RunningServer> {
    let mut builder = ThreadingUnixStreamServer::builder()
        .max_connections(16)
        .stop_timeout(Duration::from_secs(1));
    if address.to_string().contains('/') {
        // An abstract name has no mode. The user of each client is checked all the same.
        builder = builder.socket_mode(0o600);
    }
    let console = builder.bind(address.clone(), Console::new(server.clone()))?.spawn()?;
    let line = format!("console on {}\n", console.local_addr());
    let mut out = io::stdout().lock();
    // Standard output may be closed: the server runs all the same.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
    Ok(console)
}

impl Drop for Running {
    fn drop(&mut self) {
        // The thread that starts it has the other reference.
        let console = self.0.lock().map(|mut console| console.take());
        drop(console);
    }
}
