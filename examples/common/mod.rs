//! What the example servers share: the flags, the first lines of output, the stop on a signal.
#![allow(dead_code, reason = "each example uses a part")]

use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use lexopt::prelude::*;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use socketserver::extend::Transport;
use socketserver::extend::{Mixin, Spawnable};
use socketserver::transport::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, Builder, ConnectionRate, DatagramRequestHandler, Endpoint, Fibers, Forking, Scheme,
    Sequential, Server, StreamRequestHandler, Threading,
};

/// The example's name: this file is compiled into each of them.
const NAME: &str = env!("CARGO_CRATE_NAME");

/// The result of a program. The exit status is 2 for a [`usage_error`] and a bad address, and 1 for
/// other errors.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// An example: the text of its `--help`, and its own flags.
pub(crate) struct Example {
    listen: &'static str,
    about: &'static str,
    try_it: &'static str,
    no_forking: Option<&'static str>,
    flags: Vec<(&'static str, &'static str, &'static str)>,
}

impl Example {
    /// The default address, and a sentence on what the example does.
    pub(crate) fn new(listen: &'static str, about: &'static str) -> Example {
        Example { listen, about, try_it: "nc {nc}", no_forking: None, flags: Vec::new() }
    }

    /// The command to try it with, instead of `nc {nc}`: `{nc}` stands for nc's arguments,
    /// `{address}` for the address.
    pub(crate) fn try_it(self, try_it: &'static str) -> Example {
        Example { try_it, ..self }
    }

    /// Makes `--mixin forking` a usage error, with this reason.
    pub(crate) fn without_forking(self, reason: &'static str) -> Example {
        Example { no_forking: Some(reason), ..self }
    }

    /// Adds a flag, as in `.flag("greeting", "TEXT", "the first line that a client gets")`, for
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

    /// Adds the flag of an example that [`serve_any`](Options::serve_any) serves.
    pub(crate) fn serves_datagrams(self) -> Example {
        let help = "datagrams of one UDP peer in a second; 1000 by default, 0 for any number";
        self.flag("max-rate", "NUMBER", help)
    }

    /// All of `main`: reads the flags, starts logging, serves, and reports an error.
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

    /// `None` after `--help`.
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

/// The values of the flags.
pub(crate) struct Options {
    listen: Endpoint,
    mixin: Choice,
    workers: Option<usize>,
    stop_timeout: Duration,
    values: Vec<(&'static str, String)>,
    try_it: &'static str,
}

impl Options {
    /// The value of a flag of the example's own; the last one if there are several.
    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        self.values(flag).last()
    }

    /// All values of a flag of the example's own.
    pub(crate) fn values(&self, flag: &str) -> impl Iterator<Item = &str> {
        let given = self.values.iter().filter(move |(name, _)| *name == flag);
        given.map(|(_, value)| value.as_str())
    }

    /// The value of a flag of the example's own, as a time above zero.
    pub(crate) fn seconds(&self, flag: &str) -> Result<Option<Duration>, lexopt::Error> {
        let Some(text) = self.value(flag) else { return Ok(None) };
        match seconds(text) {
            Ok(time) if !time.is_zero() => Ok(Some(time)),
            _ => Err(format!("--{flag} {text}: not a number of seconds above zero").into()),
        }
    }

    /// Serves streams: on a Unix stream socket if the address is one, else on TCP.
    pub(crate) fn serve(self, handler: impl StreamRequestHandler) -> Outcome {
        if self.listen.is_unix() {
            self.run(self.builder::<UnixStream>().bind(self.listen.clone(), handler)?)
        } else {
            self.run(self.builder::<Tcp>().bind(self.listen.clone(), handler)?)
        }
    }

    /// Serves streams or datagrams, by the scheme of the address.
    pub(crate) fn serve_any<H>(self, handler: H) -> Outcome
    where
        H: StreamRequestHandler + DatagramRequestHandler,
    {
        match self.listen.scheme() {
            Some(Scheme::Udp) => {
                let builder = self.builder::<Udp>().connection_rate(self.max_rate()?);
                self.run(builder.bind(self.listen.clone(), handler)?)
            }
            Some(Scheme::UnixDatagram) => {
                self.run(self.builder::<UnixDatagram>().bind(self.listen.clone(), handler)?)
            }
            _ => self.serve(handler),
        }
    }

    /// Datagrams above this rate are dropped, so that no exchange with another service, which a
    /// forged address can start, goes on without an end.
    fn max_rate(&self) -> Result<Option<ConnectionRate>, lexopt::Error> {
        let text = self.value("max-rate").unwrap_or("1000");
        let refused = |_| format!("--max-rate {text}: not a number of datagrams");
        let connections = text.parse().map_err(refused)?;
        let rate = ConnectionRate { connections, per: Duration::from_secs(1) };
        Ok((connections > 0).then_some(rate))
    }

    /// A builder, for an example with settings of its own. It is to be bound to
    /// [`listen`](Options::listen).
    pub(crate) fn builder<T: Transport>(&self) -> Builder<T, Box<dyn Mixin>> {
        let mixin: Box<dyn Mixin> = match self.mixin {
            Choice::Forking => Box::new(Forking::new()),
            _ => self.spawnable(),
        };
        let builder = Server::<T, Sequential>::builder().mixin(mixin);
        builder.stop_timeout(self.stop_timeout).raise_descriptor_limit()
    }

    /// The mixin for a server that is spawned, in an example that is
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

    /// The address to listen on.
    pub(crate) fn listen(&self) -> Endpoint {
        self.listen.clone()
    }

    /// How long a stop waits for the clients.
    pub(crate) fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }

    /// Serves until `SIGINT` or `SIGTERM`.
    pub(crate) fn run<T: Transport>(&self, server: Server<T, Box<dyn Mixin>>) -> Outcome {
        let handle = server.handle();
        on_signals(|| Ok(handle.shutdown_pipe()?))?;
        self.announce(server.local_addr());
        Ok(server.serve_forever()?)
    }

    /// Prints the address, and the command to try it with.
    pub(crate) fn announce(&self, address: &Address) {
        announce(address, self.try_it);
    }
}

/// Prints the address of one of several servers, and how to try it.
pub(crate) fn announce(address: &Address, try_it: &str) {
    let mut out = io::stdout().lock();
    let lines = format!("listening on {address}\ntry: {}\n", try_line(address, try_it));
    // Standard output may be closed: the server runs all the same.
    let _ = out.write_all(lines.as_bytes()).and_then(|()| out.flush());
}

/// The text with `{nc}` and `{address}` replaced.
pub(crate) fn try_line(address: &Address, try_it: &str) -> String {
    let nc = match address {
        Address::Tcp(ip) => host_and_port(ip),
        Address::Udp(ip) => format!("-u {}", host_and_port(ip)),
        Address::Unix(name) => format!("-U {name}"),
        Address::UnixDatagram(name) => format!("-uU {name}"),
        other => other.to_string(),
    };
    try_it.replace("{nc}", &nc).replace("{address}", &address.to_string())
}

fn host_and_port(address: &SocketAddr) -> String {
    match address {
        // The scope, which is not a part of `Ipv6Addr`.
        SocketAddr::V6(ip) if ip.scope_id() != 0 => {
            format!("{}%{} {}", ip.ip(), ip.scope_id(), ip.port())
        }
        ip => format!("{} {}", ip.ip(), ip.port()),
    }
}

/// Writes a byte to a pipe at the first `SIGINT` or `SIGTERM`, and exits at the second. There is no
/// thread for signals, since a forking server needs a process with one thread.
pub(crate) fn on_signals<P: Into<OwnedFd> + 'static>(
    pipe: impl Fn() -> Result<P, Box<dyn Error>>,
) -> Outcome {
    let signalled = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: at the first signal, the flag is set after it was checked.
        flag::register_conditional_shutdown(signal, 128 + signal, signalled.clone())?;
        flag::register(signal, signalled.clone())?;
        pipe::register(signal, pipe()?)?;
    }
    Ok(())
}

/// The error for a bad value of a flag: a message in one line, and exit status 2.
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
