//! Servers that fork, and hand over to one in this process.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use signal_hook::consts::SIGUSR1;
use signal_hook::low_level::pipe;
use socketserver::extend::Mixin;
use socketserver::services::Echo;
use socketserver::*;

use crate::harness::{Test, tests};
use crate::mixins::mixin_named;
use crate::support::clients::{ask, line_of, rest_of, tcp};
use crate::support::server_process::{Part, ServerProcess, serve};
use crate::support::servers::serve_at;
use crate::support::{TempDir, wait_until};

pub(crate) const TESTS: &[Test] =
    tests![a_first_request_that_is_read_after_the_stop_has_begun_is_answered];

pub(crate) const PARTS: &[Part] = &[("hands-over", serve_and_hand_over)];

/// By a mixin, and the path: `forking /run/hand-over`. It hands over at `SIGUSR1`.
fn serve_and_hand_over(argument: &str) {
    let (mixin, path) = argument.split_once(' ').unwrap();
    let mixin: Box<dyn Mixin> = match mixin {
        "prefork" => Box::new(Prefork::of(Threading::new()).children(2)),
        name => mixin_named(name),
    };
    let (mut signals, writer) = std::io::pipe().unwrap();
    pipe::register(SIGUSR1, writer).unwrap();
    rustix::io::ioctl_fionbio(&signals, true).unwrap();
    let (handle, path) = (Arc::new(OnceLock::<ServerHandle>::new()), path.to_owned());
    let for_actions = handle.clone();
    // Of several processes one reads the byte.
    let hand_over = move || {
        if signals.read(&mut [0]).is_ok() {
            for_actions.get().unwrap().hand_over(&path).unwrap();
        }
    };
    let builder = TcpServer::builder().mixin(mixin);
    let builder = builder.service_actions(Duration::from_millis(10), hand_over);
    let server = builder.bind("127.0.0.1:0", handler_fn(reads_late)).unwrap();
    handle.get_or_init(|| server.handle());
    serve(server);
}

/// Reads for the first time when the stop has begun, and echoes the line.
fn reads_late(connection: &mut Connection) -> HandlerResult {
    writeln!(connection, "accepted")?;
    connection.flush()?;
    while !connection.server().is_stopping() {
        thread::sleep(Duration::from_millis(1));
    }
    writeln!(connection, "reading")?;
    let mut line = String::new();
    connection.read_line(&mut line)?;
    write!(connection, "{line}")?;
    Ok(())
}

fn a_first_request_that_is_read_after_the_stop_has_begun_is_answered() {
    for mixin in ["threading", "forking", "prefork"] {
        let directory = TempDir::new();
        let path = directory.join("hand-over");
        let old = ServerProcess::start("hands-over", &format!("{mixin} {}", path.display()));
        let clients = [(); 10].map(|()| old.client());
        for client in &clients {
            assert_eq!(line_of(client), "accepted");
        }
        old.signal(Signal::USR1);
        wait_until("it listens at the path", || path.exists());
        let new = serve_at("127.0.0.1:0", ThreadingTcpServer::builder().take_over(&path), Echo);
        assert_eq!(new.local_addr().to_string(), old.address);
        for mut client in &clients {
            assert_eq!(line_of(client), "reading");
            client.write_all(b"first\n").unwrap();
            assert_eq!(rest_of(client), b"first\n", "{mixin}");
        }
        assert_eq!(ask(&tcp(new.local_addr()), "hello"), "hello");
        let ended = old.wait();
        assert!(ended.says("drained 10, forced 0"), "{mixin}: {ended:?}");
    }
}
