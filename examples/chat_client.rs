//! A client for `chat` and `named_chat`: a line editor in which what others say appears above the
//! line that is being typed, without tearing it.
//!
//! ```text
//! cargo run --release --example chat &
//! cargo run --release --example chat_client
//!
//! cargo run --release --example named_chat &
//! cargo run --release --example chat_client -- -u ada 127.0.0.1:21567
//! ```
//!
//! With standard input or output not a terminal it is a plain filter: it sends all of its input,
//! and shows what arrives until the server closes.

mod client;
#[path = "client/session.rs"]
mod session;

use std::io::{BufRead, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use client::{Failure, failed};
use socketserver::services::printable;

const USAGE: &str = "\
usage: chat_client [-u NAME] [--connect] [ADDRESS]

Sends each line and shows what others say; Ctrl-D leaves. With standard input not
a terminal: sends all of it, and writes what arrives to standard output.

  ADDRESS          HOST:PORT, [IPV6]:PORT, tcp://HOST:PORT, unix:/path or
                   unix:@name [default: 127.0.0.1:2626]
  -u, --user NAME  the name to go by, for named_chat
  -h, --help       this text
";

/// How long the server may take to answer to a name.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    client::exit("chat_client", run())
}

fn run() -> Result<(), Failure> {
    let (endpoint, name) = client::arguments(USAGE, "127.0.0.1:2626", Some(('u', "user")))?;
    if name.as_ref().is_some_and(|name| name.contains(['\r', '\n'])) {
        return Err(Failure::Usage("a name is one line".into()));
    }
    let mut ends = session::connect(&endpoint)?;
    if let Some(name) = name {
        sign_in(&mut ends, &name)?;
    }
    session::talk("chat_client", ends)
}

/// Says who we are, which is the first line, and hears whether we may be.
fn sign_in((input, socket): &mut session::Ends, name: &str) -> Result<(), Failure> {
    let mut answer = Vec::new();
    socket
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| socket.write_all(format!("{name}\n").as_bytes()))
        .and_then(|()| input.take(1024).read_until(b'\n', &mut answer))
        .and_then(|_| socket.set_read_timeout(None))
        .map_err(failed("no answer to the name"))?;
    Err(Failure::Runtime(match printable(&answer).as_str() {
        "success" => return Ok(()),
        "reuse" => format!("the name {name:?} is taken"),
        "invalid" => format!("the server does not accept {name:?} as a name"),
        "" => "the server closed the connection".into(),
        other => format!("the server answers {other:?} to a name: not a named_chat?"),
    }))
}
