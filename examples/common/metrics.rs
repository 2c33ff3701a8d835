//! The flag `--metrics`: the server's counters over HTTP, for Prometheus.

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::time::Duration;

use socketserver::extend::{Mixin, Transport, TransportOptions};
use socketserver::transport::{Tcp, UnixStream};
use socketserver::{
    Address, Builder, Connection, Endpoint, Forking, Handled, HandlerResult, RunningServer, Server,
    ServerHandle, StreamRequestHandler, Threading,
};

use super::flags::{Flag, Values};
use super::mixin::Choice;
use super::polled::Polled;
use super::usage_error;

pub(super) const FLAG: Flag<'static> =
    Flag("metrics", "ADDRESS", "where to answer GET /metrics, for Prometheus; nowhere by default");

/// How long a client may take to ask.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the metrics are served, and by whom.
pub(super) struct Metrics {
    address: Option<Endpoint>,
    mixin: Choice,
    polled: Polled,
}

impl Metrics {
    pub(super) fn of(values: &Values, mixin: Choice) -> Result<Metrics, Box<dyn Error>> {
        let address: Option<Endpoint> = values.last(FLAG.0).map(str::parse).transpose()?;
        let refused = |why| usage_error(format!("--metrics cannot work {why}"));
        match &address {
            Some(_) if values.last("listen") == Some("inetd") => {
                Err(refused("with --listen inetd"))
            }
            Some(address) if address.is_unix() && mixin.forks_children() => {
                Err(refused("on a Unix socket with --mixin prefork"))
            }
            _ => Ok(Metrics { address, mixin, polled: Polled::default() }),
        }
    }

    /// Has a server that forks look whether there is a scrape.
    pub(super) fn polled_by<T: Transport, M: Mixin>(
        &self,
        builder: Builder<T, M>,
    ) -> Builder<T, M> {
        match self.mixin.is_spawnable() || self.address.is_none() {
            true => builder,
            false => self.polled.by(builder),
        }
    }

    /// Serves the metrics of a server, as long as the result is kept.
    pub(super) fn serve(
        &self,
        server: ServerHandle,
    ) -> Result<Option<RunningServer>, Box<dyn Error>> {
        match &self.address {
            None => Ok(None),
            Some(address) if self.mixin.forks_children() => self.serve_in_children(address, server),
            Some(address) if address.is_unix() => self.serve_on::<UnixStream>(address, server),
            Some(address) => self.serve_on::<Tcp>(address, server),
        }
    }

    fn serve_on<T>(
        &self,
        address: &Endpoint,
        server: ServerHandle,
    ) -> Result<Option<RunningServer>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
    {
        let (address, scrape) = (address.clone(), Scrape(server));
        if self.mixin.is_spawnable() {
            let metrics = builder::<T, _>(Threading::new()).bind(address, scrape)?;
            announce(metrics.local_addr());
            return Ok(Some(metrics.spawn()?));
        }
        // A process that forks must not have a thread for this: it forks for a scrape as well.
        let metrics = builder::<T, _>(Forking::new()).bind(address, scrape)?;
        announce(metrics.local_addr());
        self.polled.set(move || while metrics.handle_request() == Handled::Request {});
        Ok(None)
    }

    /// By a thread of each child, so that there is an answer while the children are busy.
    fn serve_in_children(
        &self,
        address: &Endpoint,
        server: ServerHandle,
    ) -> Result<Option<RunningServer>, Box<dyn Error>> {
        let mut options = TransportOptions::default();
        options.reuse_port = true;
        let listener = Tcp::bind(address, &options)?;
        announce(&listener.local_addr()?);
        let started = OnceLock::new();
        let start = move || -> Result<RunningServer, Box<dyn Error>> {
            let builder = builder::<Tcp, _>(Threading::new());
            let listener = TcpListener::from(listener.as_fd().try_clone_to_owned()?);
            Ok(builder.from_listener(listener, Scrape(server.clone()))?.spawn()?)
        };
        self.polled.set(move || {
            started
                .get_or_init(|| start().inspect_err(|error| log::error!("metrics: {error}")).ok());
        });
        Ok(None)
    }
}

fn builder<T: Transport, M: Mixin>(mixin: M) -> Builder<T, M> {
    Server::<T, Threading>::builder()
        .mixin(mixin)
        .max_connections(16)
        .idle_timeout(TIMEOUT)
        .message_timeout(TIMEOUT)
        .max_line_length(8 * 1024)
        .request_timeout(Duration::ZERO)
        // A successor binds to it while its predecessor still serves.
        .reuse_port(true)
        .stop_timeout(Duration::from_secs(1))
}

fn announce(address: &Address) {
    let line = format!("metrics on {address}\n");
    let mut out = io::stdout().lock();
    // Standard output may be closed: the server runs all the same.
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Answers `GET /metrics`.
struct Scrape(ServerHandle);

impl StreamRequestHandler for Scrape {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let Some(head) = connection.with_message_timeout(read_head)? else { return Ok(()) };
        let mut words = head[0].split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (status, media_type, body) = match (method, path.split('?').next()) {
            ("GET" | "HEAD", Some("/metrics")) => self.metrics(&head)?,
            ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", b"see /metrics\n".to_vec()),
            _ => ("405 Method Not Allowed", "text/plain", b"GET /metrics\n".to_vec()),
        };
        write!(
            connection,
            "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\
             Allow: GET, HEAD\r\nConnection: close\r\n\r\n",
            body.len()
        )?;
        if method != "HEAD" {
            connection.write_all(&body)?;
        }
        Ok(())
    }
}

impl Scrape {
    /// In the format that the client prefers: Prometheus names OpenMetrics first.
    fn metrics(&self, head: &[String]) -> io::Result<(&'static str, &'static str, Vec<u8>)> {
        let (stats, mut body) = (self.0.stats(), Vec::new());
        let accepts_openmetrics = head.iter().any(|line| {
            let line = line.to_ascii_lowercase();
            line.starts_with("accept:") && line.contains("application/openmetrics-text")
        });
        let media_type = if accepts_openmetrics {
            stats.write_openmetrics(&mut body)?;
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        } else {
            stats.write_prometheus(&mut body)?;
            "text/plain; version=0.0.4; charset=utf-8"
        };
        Ok(("200 OK", media_type, body))
    }
}

/// The request line and the header lines; `None` if the client closes before their end, or sends too
/// many.
fn read_head(connection: &mut Connection) -> io::Result<Option<Vec<String>>> {
    let (mut head, mut line) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        line.clear();
        if connection.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        match String::from_utf8_lossy(&line).trim_end() {
            // RFC 9112, 2.2: empty lines before the request are ignored.
            "" if head.is_empty() => {}
            "" => return Ok(Some(head)),
            line => head.push(line.to_owned()),
        }
    }
    Ok(None)
}
