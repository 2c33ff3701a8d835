//! A client for `http_files`, and for any other HTTP server: it streams the body to standard
//! output, and prints the head to standard error.
//!
//! ```sh
//! cargo run -p socketserver-demos --bin http_files
//! cargo run -p socketserver-demos --bin http_get -- http://127.0.0.1:8000/README.md
//! cargo run -p socketserver-demos --bin http_get -- --range 0-99 http://127.0.0.1:8000/README.md
//! ```

#[expect(dead_code, reason = "its command line is not that of the other clients")]
#[path = "../../../examples/client/mod.rs"]
mod client;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use client::{Failure, failed};
use lexopt::prelude::*;
use ureq::Agent;
use ureq::http::Response;

const USAGE: &str = "\
usage: http_get [--head] [--range RANGE] URL

Writes what a server answers to standard output, and the status and some headers
to standard error. The exit status is 1 unless the answer is a success (2xx).

  --head         ask for the headers alone
  --range RANGE  a part, in bytes: FIRST-LAST, FIRST- or -LENGTH
  -h, --help     this text
";

/// For connecting, for the head of the response, and for each read of its body.
const TIMEOUT: Duration = Duration::from_secs(30);

const SHOWN: [&str; 6] =
    ["content-type", "content-length", "content-range", "last-modified", "location", "allow"];

struct Request {
    url: String,
    head: bool,
    range: Option<String>,
}

fn main() -> ExitCode {
    client::exit("http_get", arguments().and_then(get))
}

fn arguments() -> Result<Request, Failure> {
    let (mut url, mut head, mut range) = (None, false, None);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("head") => head = true,
            Long("range") => range = Some(parser.value()?.string()?),
            Long("help") | Short('h') => {
                print!("{USAGE}");
                std::process::exit(0);
            }
            Value(value) if url.is_none() => url = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let url = url.ok_or_else(|| Failure::Usage("no URL".into()))?;
    Ok(Request { url, head, range })
}

fn get(Request { url, head, range }: Request) -> Result<(), Failure> {
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(TIMEOUT))
        .timeout_recv_response(Some(TIMEOUT))
        .timeout_per_read(Some(TIMEOUT))
        // The body of an error is printed too.
        .http_status_as_error(false)
        .build()
        .into();

    let mut request = if head { agent.head(&url) } else { agent.get(&url) };
    if let Some(range) = range {
        request = request.header("Range", format!("bytes={range}"));
    }
    let response = request.call().map_err(failed(&url))?;
    show_head(&response);
    let status = response.status();
    let mut body = response.into_body().into_reader();
    io::copy(&mut body, &mut io::stdout().lock()).map_err(failed(&url))?;
    if status.is_success() { Ok(()) } else { Err(Failure::Runtime(format!("{url}: {status}"))) }
}

fn show_head<B>(response: &Response<B>) {
    eprintln!("{:?} {}", response.version(), response.status());
    for name in SHOWN {
        for value in response.headers().get_all(name) {
            eprintln!("{name}: {}", value.as_bytes().escape_ascii());
        }
    }
}
