//! Draws a running server as `top` draws processes, from its console
//! ([`Console`](socketserver::services::Console)): what its requests do, rates, limits, and those that
//! have done the same for longest.
//!
//! ```sh
//! cargo run --example echo -- --console /tmp/echo.console
//! cargo run -p socketserver-demos --bin top -- /tmp/echo.console
//! ```
//!
//! `q` ends it. `--once` prints one picture as text, for a script or a log.

mod picture;
mod source;
mod terminal;

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use picture::Picture;
use socketserver::Endpoint;
use source::Source;
use terminal::Terminal;

const USAGE: &str = "\
usage: top [--interval SECONDS] [--once] CONSOLE

  CONSOLE             the path of a server's console, or unix:@NAME
  --interval SECONDS  how often it looks [default: 1]
  --once              prints one picture, after one interval, and ends
  -h, --help          this text
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("top: {error}");
            ExitCode::from(if error.is::<lexopt::Error>() { 2 } else { 1 })
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut address, mut interval, mut once) = (None, Duration::from_secs(1), false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("interval") => {
                let text = parser.value()?.string()?;
                let seconds = text.parse().ok().filter(|seconds| (0.05..=3600.0).contains(seconds));
                let refused = format!("--interval {text}: from 0.05 to 3600 seconds");
                interval = Duration::from_secs_f64(seconds.ok_or(lexopt::Error::from(refused))?);
            }
            Long("once") => once = true,
            Long("help") | Short('h') => {
                print!("{USAGE}");
                return Ok(());
            }
            Value(value) if address.is_none() => address = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let address = address.ok_or(lexopt::Error::from("CONSOLE is missing, see --help"))?;
    let address: Endpoint = address.parse()?;
    let mut source = Source::connect(&address)?;
    if once || !std::io::stdout().is_terminal() {
        let before = source.look()?;
        std::thread::sleep(interval);
        let picture = Picture::new(&source.look()?, Some(&before));
        let mut out = std::io::stdout().lock();
        return Ok(picture.lines(80, usize::MAX).try_for_each(|line| writeln!(out, "{line}"))?);
    }
    let mut terminal = Terminal::open()?;
    let mut before = None;
    loop {
        let next = Instant::now() + interval;
        let now = source.look()?;
        let (width, height) = terminal.size();
        terminal.draw(Picture::new(&now, before.as_ref()).lines(width, height))?;
        before = Some(now);
        if terminal.is_over_before(next)? {
            return Ok(());
        }
    }
}
