//! What the example servers have in common: their flags, what they print first, how they stop.
#![allow(dead_code, reason = "each example uses a part of it")]

use std::error::Error;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lexopt::prelude::*;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use socketserver::transport::{Tcp, Transport, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, Builder, DatagramRequestHandler, Endpoint, Fibers, Forking, Mixin, Scheme, Sequential,
    Server, Spawnable, StreamRequestHandler, Threading,
};

/// This file is a part of each example, and so has its name.
const NAME: &str = env!("CARGO_CRATE_NAME");

/// How a program ends. A [`usage_error`] and a bad address make the status 2, other errors 1.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// An example: what its `--help` says, and the flags that it has besides everybody's.
pub(crate) struct Example {
    listen: &'static str,
    about: &'static str,
    try_it: &'static str,
    no_forking: Option<&'static str>,
    flags: Vec<(&'static str, &'static str, &'static str)>,
}

impl Example {
    /// Where it listens unless told otherwise, and what it is, in one sentence.
    pub(crate) fn new(listen: &'static str, about: &'static str) -> Example {
        Example { listen, about, try_it: "nc {nc}", no_forking: None, flags: Vec::new() }
    }

    /// How to try it, where that is not simply `nc {nc}`; `{nc}` stands for how nc is told the
    /// address, `{address}` for the address itself.
    pub(crate) fn try_it(self, try_it: &'static str) -> Example {
        Example { try_it, ..self }
    }

    /// `--mixin forking` is a usage error, for this reason.
    pub(crate) fn without_forking(self, reason: &'static str) -> Example {
        Example { no_forking: Some(reason), ..self }
    }

    /// One more flag, as in `.flag("greeting", "TEXT", "what newcomers are told")`, for
    /// [`Options::value`].
    pub(crate) fn flag(
        mut self,
        name: &'static str,
        value: &'static str,
        help: &'static str,
    ) -> Example {
        self.flags.push((name, value, help));
        self
    }

    /// The whole of `main`: reads the flags, starts logging, serves, and says how that ended.
    pub(crate) fn run(self, serve: impl FnOnce(Options) -> Outcome) -> ExitCode {
        env_logger::init_from_env(env_logger::Env::default().default_filter_or("warn"));
        let outcome = match self.parse() {
            Ok(Some(options)) => serve(options),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        let Err(error) = outcome else { return ExitCode::SUCCESS };
        eprintln!("{NAME}: {}", error.to_string().replace('\n', " "));
        let bad_address = matches!(error.downcast_ref(), Some(socketserver::Error::Address { .. }));
        ExitCode::from(if bad_address || error.is::<lexopt::Error>() { 2 } else { 1 })
    }

    /// `None` when all that was asked for is help.
    fn parse(self) -> Result<Option<Options>, Box<dyn Error>> {
        let mut listen = self.listen.to_owned();
        let mut mixin = Choice::Threading;
        let mut workers = None;
        let mut stop_timeout = Duration::from_secs(10);
        let mut values = Vec::new();
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("listen") => listen = parser.value()?.string()?,
                Long("mixin") => mixin = parser.value()?.parse()?,
                Long("workers") => workers = Some(parser.value()?.parse()?),
                Long("stop-timeout") => stop_timeout = parser.value()?.parse_with(seconds)?,
                Long("help") | Short('h') => return self.help().map(|()| None),
                Long(name) => match self.flags.iter().find(|flag| flag.0 == name) {
                    Some(flag) => values.push((flag.0, parser.value()?.string()?)),
                    None => return Err(argument.unexpected().into()),
                },
                other => return Err(other.unexpected().into()),
            }
        }
        if let (Choice::Forking, Some(reason)) = (mixin, self.no_forking) {
            return Err(usage_error(format!("--mixin forking cannot work here: {reason}")));
        }
        let listen = listen.parse()?;
        Ok(Some(Options { listen, mixin, workers, stop_timeout, values, try_it: self.try_it }))
    }

    fn help(&self) -> Outcome {
        let default = format!("where to listen; {} by default", self.listen);
        let mixins = match self.no_forking {
            None => "sequential, threading (the default), forking or fibers",
            Some(_) => "sequential, threading (the default) or fibers",
        };
        let mut flags = vec![("listen", "ADDRESS", default.as_str()), ("mixin", "MIXIN", mixins)];
        flags.push((
            "workers",
            "NUMBER",
            "threads for fibers; by default one less than processors",
        ));
        flags.push(("stop-timeout", "SECONDS", "how long a stop waits for clients; 10 by default"));
        flags.extend(&self.flags);
        let mut out = io::stdout().lock();
        writeln!(out, "{}\n\nUsage: {NAME} [FLAG]...\n", self.about)?;
        for (name, value, help) in flags {
            writeln!(out, "  {:<24} {help}", format!("--{name} {value}"))?;
        }
        writeln!(out, "  {:<24} this text\n", "--help")?;
        writeln!(out, "Addresses: HOST:PORT, tcp://HOST:PORT, udp://HOST:PORT, unix:/path,")?;
        writeln!(out, "unix:@name, unixgram:/path, as far as the example serves them.")?;
        Ok(())
    }
}

/// What the flags said.
pub(crate) struct Options {
    listen: Endpoint,
    mixin: Choice,
    workers: Option<usize>,
    stop_timeout: Duration,
    values: Vec<(&'static str, String)>,
    try_it: &'static str,
}

impl Options {
    /// What was given with a flag of the example's own; the last one counts.
    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        self.values(flag).last()
    }

    /// The same, for a flag that may be given more than once.
    pub(crate) fn values(&self, flag: &str) -> impl Iterator<Item = &str> {
        let given = self.values.iter().filter(move |(name, _)| *name == flag);
        given.map(|(_, value)| value.as_str())
    }

    /// A time given with a flag of the example's own; above zero.
    pub(crate) fn seconds(&self, flag: &str) -> Result<Option<Duration>, lexopt::Error> {
        let Some(text) = self.value(flag) else { return Ok(None) };
        match seconds(text) {
            Ok(time) if !time.is_zero() => Ok(Some(time)),
            _ => Err(format!("--{flag} {text}: not a number of seconds above zero").into()),
        }
    }

    /// Serves streams: TCP, or Unix stream sockets where the address is one.
    pub(crate) fn serve(self, handler: impl StreamRequestHandler) -> Outcome {
        if self.listen.is_unix() {
            self.run(self.builder::<UnixStream>().bind(self.listen.clone(), handler)?)
        } else {
            self.run(self.builder::<Tcp>().bind(self.listen.clone(), handler)?)
        }
    }

    /// Serves streams or datagrams, as the address says.
    pub(crate) fn serve_any<H>(self, handler: H) -> Outcome
    where
        H: StreamRequestHandler + DatagramRequestHandler,
    {
        match self.listen.scheme() {
            Some(Scheme::Udp) => {
                self.run(self.builder::<Udp>().bind(self.listen.clone(), handler)?)
            }
            Some(Scheme::UnixDatagram) => {
                self.run(self.builder::<UnixDatagram>().bind(self.listen.clone(), handler)?)
            }
            _ => self.serve(handler),
        }
    }

    /// The server to be, for an example with settings of its own; to be bound to
    /// [`listen`](Options::listen).
    pub(crate) fn builder<T: Transport>(&self) -> Builder<T, Box<dyn Mixin>> {
        let mixin: Box<dyn Mixin> = match self.mixin {
            Choice::Forking => Box::new(Forking::new()),
            _ => self.spawnable(),
        };
        let builder = Server::<T, Sequential>::builder().mixin(mixin);
        builder.stop_timeout(self.stop_timeout).raise_descriptor_limit()
    }

    /// The mixin for a server beside a main loop, of an example that is
    /// [`without_forking`](Example::without_forking).
    pub(crate) fn spawnable(&self) -> Box<dyn Spawnable> {
        match self.mixin {
            Choice::Sequential => Box::new(Sequential),
            Choice::Fibers => {
                let fibers = Fibers::new();
                Box::new(match self.workers {
                    Some(workers) => fibers.workers(workers),
                    None => fibers,
                })
            }
            _ => Box::new(Threading::new()),
        }
    }

    /// Where to listen.
    pub(crate) fn listen(&self) -> Endpoint {
        self.listen.clone()
    }

    /// How long to wait for clients at the end.
    pub(crate) fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }

    /// Serves until a signal comes.
    pub(crate) fn run<T: Transport>(&self, server: Server<T, Box<dyn Mixin>>) -> Outcome {
        let handle = server.handle();
        on_signals(|| Ok(handle.shutdown_pipe()?))?;
        self.announce(server.local_addr());
        Ok(server.serve_forever()?)
    }

    /// Says where it listens, for whoever started it, and how to try it.
    pub(crate) fn announce(&self, address: &Address) {
        announce(address, self.try_it);
    }
}

/// The same for a server of an example that has more than one.
pub(crate) fn announce(address: &Address, try_it: &str) {
    let nc = match address {
        Address::Tcp(ip) => format!("{} {}", ip.ip(), ip.port()),
        Address::Udp(ip) => format!("-u {} {}", ip.ip(), ip.port()),
        Address::Unix(name) => format!("-U {name}"),
        Address::UnixDatagram(name) => format!("-uU {name}"),
        other => other.to_string(),
    };
    let try_it = try_it.replace("{nc}", &nc).replace("{address}", &address.to_string());
    let mut out = io::stdout().lock();
    // It serves even where nobody reads this.
    let _ = writeln!(out, "listening on {address}\ntry: {try_it}").and_then(|()| out.flush());
}

/// A byte into a pipe at the first `SIGINT` or `SIGTERM`, the end at the second. No thread waits
/// for signals, since a forking server would not have one beside it.
pub(crate) fn on_signals<P: Into<OwnedFd> + 'static>(
    pipe: impl Fn() -> Result<P, Box<dyn Error>>,
) -> Outcome {
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal arms what the second one runs into.
        flag::register_conditional_shutdown(signal, 128 + signal, again.clone())?;
        flag::register(signal, again.clone())?;
        pipe::register(signal, pipe()?)?;
    }
    Ok(())
}

/// For a bad value of a flag: one line, and status 2.
pub(crate) fn usage_error(message: String) -> Box<dyn Error> {
    lexopt::Error::from(message).into()
}

/// The time as C's `ctime` writes it, without its newline: `Sat Nov 20 23:46:01 2026`.
pub(crate) fn ctime() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[derive(Clone, Copy)]
enum Choice {
    Sequential,
    Threading,
    Forking,
    Fibers,
}

impl FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Choice, &'static str> {
        match text {
            "sequential" => Ok(Choice::Sequential),
            "threading" => Ok(Choice::Threading),
            "forking" => Ok(Choice::Forking),
            "fibers" => Ok(Choice::Fibers),
            _ => Err("a mixin is sequential, threading, forking or fibers"),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let number = text.parse().map_err(|_| "not a number of seconds")?;
    Duration::try_from_secs_f64(number).map_err(|_| "not a time to wait")
}
