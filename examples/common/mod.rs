//! What the example servers share: the flags, the first lines of output, the stop on a signal.
#![allow(dead_code, reason = "each example uses a part")]

mod announce;
mod console;
mod flags;
mod hand_over;
mod listen;
mod metrics;
mod mixin;
mod polled;
mod proxies;
mod signals;
mod systemd;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod tls;

use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use socketserver::events::AccessLog;
use socketserver::extend::{Mixin, Spawnable, Transport};
use socketserver::transport::{InheritedSocket, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Access, Address, Builder, ConnectionRate, DatagramRequestHandler, Endpoint, ProxyProtocol,
    RunningServer, Scheme, Sequential, Server, ServerHandle, StreamRequestHandler,
};

use announce::announce_other;
#[allow(unused_imports, reason = "each example uses a part")]
pub(crate) use announce::{announce, try_line};
#[allow(unused_imports, reason = "each example uses a part")]
pub(crate) use flags::usage_error;
use flags::{Flag, Values};
use hand_over::Restart;
use listen::Listen;
use metrics::Metrics;
pub(crate) use signals::on_signals;
use tls::Tls;

/// The example's name: this file is compiled into each of them.
const NAME: &str = env!("CARGO_CRATE_NAME");

/// The result of a program. The exit status is 2 for a [`usage_error`] and a bad address, and 1 for
/// other errors.
pub(crate) type Outcome = Result<(), Box<dyn Error>>;

const ALSO: Flag<'static> = Flag("also", "ADDRESS", "listen there too; may be given several times");

const TLS_FLAGS: [Flag<'static>; 3] = [
    Flag(
        "tls-cert",
        "FILE",
        "TLS, with the certificate and chain in this file; SIGHUP: read again",
    ),
    Flag("tls-key", "FILE", "the key of the certificate"),
    Flag("tls-client-ca", "FILE", "requires client certificates, signed by those in this file"),
];

const ACCESS_LOG: Flag<'static> =
    Flag("access-log", "", "a line on standard error for each request that has ended");

const STOP_TIMEOUT: Flag<'static> =
    Flag("stop-timeout", "SECONDS", "how long a stop waits for clients; 10 by default");

/// What is logged if `RUST_LOG` does not say it. The access log is written if its flag is given.
const LOG_FILTER: &str = "warn,socketserver::access=info";

/// An example: the text of its `--help`, and its own flags.
pub(crate) struct Example {
    listen: &'static str,
    about: &'static str,
    try_it: &'static str,
    no_forking: Option<&'static str>,
    has_metrics: bool,
    flags: Vec<Flag<'static>>,
}

impl Example {
    /// The default address, and a sentence on what the example does.
    pub(crate) fn new(listen: &'static str, about: &'static str) -> Example {
        let (try_it, no_forking, has_metrics) = ("nc {nc}", None, true);
        Example { listen, about, try_it, no_forking, has_metrics, flags: Vec::new() }
    }

    /// The command to try it with, instead of `nc {nc}`: `{nc}` stands for nc's arguments,
    /// `{address}` for the address.
    pub(crate) fn try_it(self, try_it: &'static str) -> Example {
        Example { try_it, ..self }
    }

    /// Makes `--mixin forking` and `--mixin prefork` usage errors, with this reason.
    pub(crate) fn without_forking(self, reason: &'static str) -> Example {
        Example { no_forking: Some(reason), ..self }
    }

    /// Leaves out `--metrics`, for an example with several servers.
    pub(crate) fn without_metrics(self) -> Example {
        Example { has_metrics: false, ..self }
    }

    /// Adds a flag, as in `.flag("greeting", "TEXT", "the first line that a client gets")`, for
    /// [`Options::value`].
    pub(crate) fn flag(
        mut self,
        name: &'static str,
        value: &'static str,
        help: &'static str,
    ) -> Example {
        self.flags.push(Flag(name, value, help));
        self
    }

    /// Adds the flag of an example that [`serve_any`](Options::serve_any) serves.
    pub(crate) fn serves_datagrams(self) -> Example {
        let help = "datagrams of one UDP peer in a second; 1000 by default, 0 for any number";
        self.flag("max-rate", "NUMBER", help)
    }

    /// All of `main`: reads the flags, starts logging, serves, and reports an error.
    pub(crate) fn run(self, serve: impl FnOnce(Options) -> Outcome) -> ExitCode {
        env_logger::init_from_env(env_logger::Env::default().default_filter_or(LOG_FILTER));
        let outcome = match self.options() {
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
    fn options(self) -> Result<Option<Options>, Box<dyn Error>> {
        let listen_help = format!("where to listen; {} by default", self.listen);
        let mut flags = vec![Flag("listen", "ADDRESS", &listen_help), ALSO, proxies::FLAG];
        flags.extend(TLS_FLAGS);
        flags.extend(mixin::flags(self.no_forking.is_some()));
        flags.extend([STOP_TIMEOUT, ACCESS_LOG]);
        flags.extend(self.has_metrics.then_some(metrics::FLAG));
        flags.extend(self.has_metrics.then_some(console::FLAG));
        flags.extend(&self.flags);
        let Some(values) = flags::parse(&flags)? else {
            return flags::help(self.about, &flags).map(|()| None);
        };
        let listen =
            Listen::parse(values.last("listen").unwrap_or(self.listen), values.all("also"))?;
        let mixin = mixin::Choice::of(&values, self.no_forking)?;
        let stop_timeout = values.parsed("stop-timeout", flags::seconds)?;
        let stop_timeout = stop_timeout.unwrap_or(Duration::from_secs(10));
        let (access, proxies, tls) = (Access::open(), proxies::of(&values)?, Tls::of(&values)?);
        let (metrics, try_it) = (Metrics::of(&values, mixin)?, self.try_it);
        let console = console::of(&values, mixin)?;
        Ok(Some(Options {
            listen,
            access,
            proxies,
            tls,
            mixin,
            stop_timeout,
            metrics,
            console,
            restart: Restart::of(mixin),
            values,
            try_it,
        }))
    }
}

/// The values of the flags.
pub(crate) struct Options {
    listen: Listen,
    access: Access,
    proxies: Option<ProxyProtocol>,
    tls: Option<Tls>,
    mixin: mixin::Choice,
    stop_timeout: Duration,
    metrics: Metrics,
    console: Option<Endpoint>,
    restart: Restart,
    values: Values,
    try_it: &'static str,
}

impl Options {
    /// The value of a flag of the example's own; the last one if there are several.
    pub(crate) fn value(&self, flag: &str) -> Option<&str> {
        self.values.last(flag)
    }

    /// All values of a flag of the example's own.
    pub(crate) fn values(&self, flag: &str) -> impl Iterator<Item = &str> {
        self.values.all(flag)
    }

    /// The value of a flag of the example's own, as a time above zero.
    pub(crate) fn seconds(&self, flag: &str) -> Result<Option<Duration>, lexopt::Error> {
        let Some(text) = self.value(flag) else { return Ok(None) };
        match flags::seconds(text) {
            Ok(time) if !time.is_zero() => Ok(Some(time)),
            _ => Err(format!("--{flag} {text}: not a number of seconds above zero").into()),
        }
    }

    /// Has only these clients served.
    pub(crate) fn with_access(self, access: Access) -> Options {
        Options { access, ..self }
    }

    /// Serves streams: on a Unix stream socket if the address is one, else on TCP.
    pub(crate) fn serve(self, handler: impl StreamRequestHandler) -> Outcome {
        if self.listen.is_inetd() {
            let connection = io::stdin().as_fd().try_clone_to_owned()?;
            let builder = self.secured(self.builder::<Tcp>(), &Arc::default())?;
            let reason = builder.serve_connection(connection, handler)?;
            log::info!("{reason}");
            return Ok(());
        }
        match self.listen.scheme() {
            Some(Scheme::Unix) => self.run(self.streams(self.builder::<UnixStream>(), handler)?),
            _ => self.run(self.streams(self.builder::<Tcp>(), handler)?),
        }
    }

    /// Serves streams or datagrams, by the scheme of the address.
    pub(crate) fn serve_any<H>(self, handler: H) -> Outcome
    where
        H: StreamRequestHandler + DatagramRequestHandler,
    {
        match self.listen.scheme() {
            Some(Scheme::Udp | Scheme::UnixDatagram) if self.proxies.is_some() => {
                Err(usage_error("--proxy-protocol: datagrams have no PROXY header".into()))
            }
            Some(Scheme::Udp | Scheme::UnixDatagram) if self.tls.is_some() => {
                Err(usage_error("--tls-cert: datagrams have no TLS".into()))
            }
            Some(Scheme::Udp) => {
                let builder = self.builder::<Udp>().connection_rate(self.max_rate()?);
                self.run(self.listen.datagrams(self.logged(builder), handler)?)
            }
            Some(Scheme::UnixDatagram) => {
                let builder = self.logged(self.builder::<UnixDatagram>());
                self.run(self.listen.datagrams(builder, handler)?)
            }
            _ => self.serve(handler),
        }
    }

    /// A server on the address that was asked for, or on the socket that the program was started with,
    /// for an example with settings of its own.
    pub(crate) fn streams<T, M: Mixin>(
        &self,
        builder: Builder<T, M>,
        handler: impl StreamRequestHandler,
    ) -> Result<Server<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>
            + TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        let handle = Arc::default();
        let server = self.listen.streams(self.secured(builder, &handle)?, handler)?;
        handle.get_or_init(|| server.handle());
        Ok(server)
    }

    /// A further server, on an address of its own.
    pub(crate) fn streams_at<T, M: Mixin>(
        &self,
        address: &str,
        builder: Builder<T, M>,
        handler: impl StreamRequestHandler,
    ) -> Result<Server<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
    {
        let handle = Arc::default();
        let server = self.secured(builder, &handle)?.bind(address, handler)?;
        handle.get_or_init(|| server.handle());
        Ok(server)
    }

    /// What the flag says of an access log.
    fn logged<T: Transport, M: Mixin>(&self, builder: Builder<T, M>) -> Builder<T, M> {
        match self.values.last(ACCESS_LOG.0) {
            Some(_) => builder.observer(AccessLog::new()),
            None => builder,
        }
    }

    /// What the flags say of proxies, of TLS and of an access log. `server` is to be set.
    fn secured<T, M: Mixin>(
        &self,
        builder: Builder<T, M>,
        server: &Arc<OnceLock<ServerHandle>>,
    ) -> Result<Builder<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
    {
        let builder = self.logged(builder).proxy_protocol(self.proxies.clone());
        match &self.tls {
            Some(tls) => tls.on(builder, server),
            None => Ok(builder),
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

    /// A builder with the settings of the flags.
    pub(crate) fn builder<T: Transport>(&self) -> Builder<T, Box<dyn Mixin>> {
        let builder = Server::<T, Sequential>::builder().mixin(self.mixin.mixin());
        let builder = builder.access(self.access.clone()).stop_timeout(self.stop_timeout);
        let builder = self.restart.polled_by(builder);
        self.metrics.polled_by(systemd::notified(builder.raise_descriptor_limit()))
    }

    /// The mixin for a server that is spawned, in an example that is
    /// [`without_forking`](Example::without_forking).
    pub(crate) fn spawnable(&self) -> Box<dyn Spawnable> {
        self.mixin.spawnable()
    }

    /// Whether the server listens on a Unix socket.
    pub(crate) fn is_unix(&self) -> bool {
        matches!(self.listen.scheme(), Some(Scheme::Unix))
    }

    /// How long a stop waits for the clients.
    pub(crate) fn stop_timeout(&self) -> Duration {
        self.stop_timeout
    }

    /// Serves until `SIGINT` or `SIGTERM`, or until a successor does after `SIGUSR2`.
    pub(crate) fn run<T: Transport>(&self, server: Server<T, Box<dyn Mixin>>) -> Outcome {
        let handle = server.handle();
        on_signals(|| Ok(handle.shutdown_pipe()?))?;
        self.restart.on_signal(server.handle())?;
        self.announce_all(&handle);
        let _beside = self.serve_beside(server.handle())?;
        Ok(server.serve_forever()?)
    }

    /// Serves the metrics and the console of a server that is not [`run`](Options::run), as long as
    /// the result is kept.
    pub(crate) fn serve_beside(&self, server: ServerHandle) -> Result<Beside, Box<dyn Error>> {
        let _console = console::serve(self.console.as_ref(), &server)?;
        Ok(Beside { _console, _metrics: self.metrics.serve(server)? })
    }

    /// From now on `SIGUSR2` restarts a server that is not [`run`](Options::run).
    pub(crate) fn restart_on_signal(&self, server: ServerHandle) -> Outcome {
        self.restart.on_signal(server)
    }

    /// Prints the address, and the command to try it with.
    pub(crate) fn announce(&self, address: &Address) {
        self.announce_with(address, self.try_it);
    }

    /// The same, of a further server.
    pub(crate) fn announce_with(&self, address: &Address, try_it: &str) {
        let over_tls = "openssl s_client -quiet {openssl}";
        announce(address, if self.tls.is_some() { over_tls } else { try_it });
    }

    /// Prints the addresses of a server, and the command to try it with.
    pub(crate) fn announce_all(&self, server: &ServerHandle) {
        self.announce(server.local_addr());
        server.listeners().iter().skip(1).for_each(|other| announce_other(&other.local_addr));
    }
}

/// What is served beside a server.
pub(crate) struct Beside {
    _console: Option<console::Running>,
    _metrics: Option<RunningServer>,
}

/// The time as C's `ctime` writes it, without its newline: `Sat Nov 20 23:46:01 2026`.
pub(crate) fn ctime() -> String {
    jiff::Zoned::now().strftime("%a %b %e %H:%M:%S %Y").to_string()
}
