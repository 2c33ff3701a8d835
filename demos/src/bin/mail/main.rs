//! An SMTP server that accepts mail for its own users, and a POP3 server that delivers it to them,
//! over one folder of Maildirs.
//!
//! ```sh
//! cargo run -p socketserver-demos --bin mail -- --maildir /tmp/mail --user ada:secret
//! echo hello | cargo run -p socketserver-demos --bin send_mail -- --to ada@example.test
//! cargo run -p socketserver-demos --bin read_mail -- --user ada --password secret
//! ```
//!
//! Connections are not encrypted, so it is for one machine, or for a test that needs a mail server.

#[path = "../../../../examples/common/mod.rs"]
mod common;

mod command;
mod data;
mod envelope;
mod line;
mod mailbox;
mod maildir;
mod offloaded;
mod pop3;
mod smtp;
mod users;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Example, Options, Outcome, usage_error};
use pop3::Pop3;
use smtp::Smtp;
use socketserver::extend::Spawnable;
use socketserver::transport::Tcp;
use socketserver::{Builder, Overload, TcpServer};
use users::Users;

/// Of each server. A connection needs up to three descriptors, and a process usually has 1024.
const MAX_CONNECTIONS: usize = 150;

fn run(options: Options) -> Outcome {
    let users = Arc::new(users(&options)?);
    let timeout = Duration::from_secs(number(&options, "timeout", 600)?);
    let max_size = number(&options, "max-size", 10 * 1024 * 1024)?;
    let (mut signals, signal_pipe) = UnixStream::pair()?;
    common::on_signals(|| Ok(signal_pipe.try_clone()?))?;

    let smtp = builder(&options, timeout, "421 too many connections\r\n");
    let smtp = options.streams(smtp, Smtp { users: users.clone(), max_size })?;
    let pop3 = builder(&options, timeout, "-ERR [SYS/TEMP] too many connections\r\n");
    let address = options.value("pop3").unwrap_or("127.0.0.1:1100");
    let pop3 = options.streams_at(address, pop3, Pop3 { users })?;
    let (smtp, pop3) = (smtp.spawn()?, pop3.spawn()?);
    options.announce(smtp.local_addr());
    options.announce_with(pop3.local_addr(), "nc -C {nc}");

    signals.read_exact(&mut [0])?;
    let deadline = Instant::now() + options.stop_timeout();
    // It must not accept connections while the stop of the other server waits.
    pop3.handle().shutdown();
    for server in [smtp, pop3] {
        server.stop(deadline.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// The limits of both servers.
fn builder(
    options: &Options,
    timeout: Duration,
    too_many: &str,
) -> Builder<Tcp, Box<dyn Spawnable>> {
    TcpServer::builder()
        .mixin(options.spawnable())
        .max_connections(MAX_CONNECTIONS)
        .max_connections_per_peer(MAX_CONNECTIONS / 2)
        .overload(Overload::Refuse(too_many.into()))
        .idle_timeout(timeout)
        .read_timeout(timeout)
        .message_timeout(timeout)
}

fn users(options: &Options) -> Result<Users, Box<dyn std::error::Error>> {
    let folder = options.value("maildir").ok_or_else(|| usage_error("--maildir?".into()))?;
    let domain = options.value("domain").unwrap_or("example.test");
    if !envelope::is_domain(domain) {
        return Err(usage_error(format!("{domain:?} is no domain")));
    }
    let mut users = Users::new(domain);
    for user in options.values("user") {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        // Without the password, since errors end up in logs.
        let refused = |reason| usage_error(format!("--user {name}: {reason}"));
        users.check(name, password).map_err(refused)?;
        users.add(name, password, &Path::new(folder).join(name))?;
    }
    match users.is_empty() {
        true => Err(usage_error("no users: --user NAME:PASSWORD".into())),
        false => Ok(users),
    }
}

fn number(options: &Options, flag: &str, default: u64) -> Result<u64, Box<dyn std::error::Error>> {
    let Some(text) = options.value(flag) else { return Ok(default) };
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| usage_error(format!("--{flag} {text:?} is no number from 1 up")))
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:2500", "Mail for a few users: SMTP to leave it, POP3 to fetch it.")
        .try_it("nc -C {nc}")
        .flag("pop3", "ADDRESS", "where to listen for POP3; 127.0.0.1:1100 by default")
        .flag("maildir", "FOLDER", "where the mail is, in a Maildir for each user")
        .flag("domain", "DOMAIN", "whose mail this is; example.test by default")
        .flag("user", "NAME:PASSWORD", "who may have mail; for each user once")
        .flag("max-size", "BYTES", "how long a message may be; 10 MiB by default")
        .flag("timeout", "SECONDS", "how long a client may take; 600 by default, as RFC 1939 asks")
        .without_forking("SMTP and POP3 are two servers in one process")
        .without_metrics()
        .run(run)
}
