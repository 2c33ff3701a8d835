//! A server inside a program that has a main loop of its own: a control socket.
//!
//! ```sh
//! cargo run --example embed
//! echo status | nc -N -U @socketserver-embed
//! echo stop | nc -N -U @socketserver-embed
//! ```

mod common;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use common::{Example, Options, Outcome};
use socketserver::{Connection, HandlerResult, StreamRequestHandler, UnixStreamServer};

struct App {
    started: Instant,
    ticks: AtomicU64,
    /// A byte written to it ends the main loop.
    waker: UnixStream,
}

impl StreamRequestHandler for App {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            match line.trim() {
                "status" => {
                    let (ticks, uptime) = (self.ticks.load(Relaxed), self.started.elapsed());
                    writeln!(connection, "{ticks} ticks in {} s", uptime.as_secs())?;
                }
                "stop" => (&self.waker).write_all(b"!")?,
                _ => writeln!(connection, "status or stop?")?,
            }
            line.clear();
        }
        Ok(())
    }
}

fn run(options: Options) -> Outcome {
    let (mut wake_up, waker) = UnixStream::pair()?;
    common::on_signals(|| Ok(waker.try_clone()?))?;
    let app = Arc::new(App { started: Instant::now(), ticks: AtomicU64::new(0), waker });
    let builder = UnixStreamServer::builder().mixin(options.spawnable());
    let server = options.streams(builder, app.clone())?.spawn()?;
    options.restart_on_signal(server.handle())?;
    options.announce_all(&server.handle());
    let _beside = options.serve_beside(server.handle())?;

    // The main loop counts until it reads a byte.
    wake_up.set_read_timeout(Some(Duration::from_millis(100)))?;
    while let Err(error) = wake_up.read(&mut [0]) {
        if server.is_stopping() {
            // Another process serves.
            break;
        }
        // The other error is `EINTR`: the signal handler writes the byte.
        if error.kind() == ErrorKind::WouldBlock {
            app.ticks.fetch_add(1, Relaxed);
        }
    }
    let report = server.stop(options.stop_timeout());
    let _ = writeln!(std::io::stdout(), "stopped; clients cut off: {}", report.forced);
    Ok(())
}

fn main() -> ExitCode {
    Example::new("unix:@socketserver-embed", "Counts, and reports the count on a control socket.")
        .try_it("echo status | nc -N {nc}")
        .without_forking("an app and its control socket share one process")
        .run(run)
}
