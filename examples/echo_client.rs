//! A client for `echo`, and for any other server of lines: what you type goes there, what comes
//! back is shown.
//!
//! ```text
//! cargo run --release --example echo &
//! cargo run --release --example echo_client
//! ```
//!
//! With standard input or output not a terminal it is a plain filter, which sends and shows any
//! bytes, says when its input has ended, and ends when the server has no more to say:
//!
//! ```text
//! printf 'a\nb\n' | cargo run --release --example echo_client -- 127.0.0.1:23000
//! ```

mod client;
#[path = "client/session.rs"]
mod session;

use std::process::ExitCode;

const USAGE: &str = "\
usage: echo_client [--connect] [ADDRESS]

Sends each line and shows the answers; Ctrl-D leaves. With standard input not a
terminal: sends all of it, and writes what is answered to standard output.

  ADDRESS     HOST:PORT, [IPV6]:PORT, tcp://HOST:PORT, unix:/path or unix:@name
              [default: 127.0.0.1:23000]
  -h, --help  this text
";

fn main() -> ExitCode {
    client::exit("echo_client", run())
}

fn run() -> Result<(), client::Failure> {
    let (endpoint, _) = client::arguments(USAGE, "127.0.0.1:23000", None)?;
    session::talk("echo_client", session::connect(&endpoint)?)
}
