//! Asks the system's resolver, as CPython's `socket` module does: hosts, services, protocols,
//! addresses in binary, and two options of a socket. It needs no network if the answer is in a file
//! in `/etc`.
//!
//! ```sh
//! cargo run -p socketserver-demos --bin lookup -- host --all localhost
//! cargo run -p socketserver-demos --bin lookup -- addr 127.0.0.1
//! cargo run -p socketserver-demos --bin lookup -- fqdn
//! cargo run -p socketserver-demos --bin lookup -- service http
//! cargo run -p socketserver-demos --bin lookup -- port 53/udp
//! cargo run -p socketserver-demos --bin lookup -- protocol icmp
//! cargo run -p socketserver-demos --bin lookup -- addrinfo localhost http
//! cargo run -p socketserver-demos --bin lookup -- pack ::1
//! cargo run -p socketserver-demos --bin lookup -- unpack 7f000001
//! cargo run -p socketserver-demos --bin lookup -- sockopt
//! ```

mod answer;
mod binary;
mod files;
mod hosts;
mod protocols;
mod services;
mod sockopt;

use std::io::{self, Write};
use std::process::ExitCode;

use answer::{Answer, usage_error};
use lexopt::prelude::*;
use socketserver::services::printable;

const USAGE: &str = "\
usage: lookup COMMAND

  host [--all] NAME        its addresses; with --all its names as well
  addr [--all] ADDRESS     its name; with --all its other names as well
  fqdn [NAME]              the full name of a host, or of this one
  service NAME[/tcp|/udp]  its port
  port NUMBER[/tcp|/udp]   the name of the service there
  protocol NAME            its number
  addrinfo HOST SERVICE    where to connect to: family, type, protocol, canonical
                           name and socket address
  pack ADDRESS             an IPv4 or IPv6 address as hexadecimal digits
  unpack HEX               and back
  sockopt                  a new socket's send buffer, and SO_REUSEADDR before
                           and after it is set
  -h, --help               this text

The status is 1 where there is no answer, and 2 where there was no question.
";

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    let is_usage = error.is::<lexopt::Error>();
    let hint = if is_usage { " (try --help)" } else { "" };
    eprintln!("lookup: {}{hint}", printable(error.to_string().as_bytes()));
    ExitCode::from(if is_usage { 2 } else { 1 })
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let (mut words, mut all) = (Vec::new(), false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("all") => all = true,
            Long("help") | Short('h') => return Ok(io::stdout().write_all(USAGE.as_bytes())?),
            Value(word) => words.push(word.string()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut lines = answer(&words, all)?.join("\n");
    lines.push('\n');
    Ok(io::stdout().write_all(lines.as_bytes())?)
}

fn answer(words: &[&str], all: bool) -> Answer {
    match (words, all) {
        (["host", name], _) => hosts::host(name, all),
        (["addr", address], _) => hosts::addr(address, all),
        (["fqdn"], false) => hosts::fqdn(""),
        (["fqdn", name], false) => hosts::fqdn(name),
        (["service", name], false) => services::service(name),
        (["port", number], false) => services::port(number),
        (["protocol", name], false) => protocols::protocol(name),
        (["addrinfo", host, service], false) => hosts::addrinfo(host, service),
        (["pack", address], false) => binary::pack(address),
        (["unpack", hex], false) => binary::unpack(hex),
        (["sockopt"], false) => sockopt::sockopt(),
        ([], _) => Err(usage_error("what to look up?")),
        (_, true) => Err(usage_error("--all is for host NAME and addr ADDRESS")),
        _ => Err(usage_error(format!("not a question: {}", words.join(" ")))),
    }
}
