//! A client for `echo` and other line protocols: it sends what you type, and shows the answers.
//!
//! ```text
//! cargo run --release --example echo &
//! cargo run --release --example echo_client
//! ```
//!
//! If standard input or output is no terminal it is a plain filter: it sends and shows any bytes,
//! half-closes at the end of its input, and exits when the server closes:
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
