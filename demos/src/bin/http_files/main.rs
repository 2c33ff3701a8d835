//! A directory tree over HTTP/1.1 ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110),
//! [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112)), strict in what it accepts.
//!
//! ```sh
//! cargo run -p socketserver-demos --bin http_files -- --root .
//! curl -i http://127.0.0.1:8000/
//! curl -r 0-99 http://127.0.0.1:8000/README.md
//! cargo run -p socketserver-demos --bin http_get -- http://127.0.0.1:8000/README.md
//! ```
//!
//! It serves GET and HEAD, single ranges, and conditions by date. Connections are persistent, and
//! requests may be pipelined. It has no entity tags and decodes no bodies: it discards a small body,
//! and closes the connection after a request with any other.
//!
//! Some clients read the response only after they have sent all of their body (Python's
//! `http.client`). So the server discards what a refused client still sends, up to
//! `--linger-timeout` and `--linger-bytes`. A client that sends more than that, and gives up when
//! its send fails, does not read the response. One that reads while it sends, as curl does, stops
//! early.
//!
//! Under `--mixin fibers` it reads files without `Fibers::offload`: a read from the page cache is
//! faster than the hand-over to another thread. A read from a slow disk blocks all clients of that
//! worker. Under `--mixin sequential` a connection occupies the server until it is closed, at most
//! `--idle-timeout` after its last request, and `--linger-timeout` more if that is refused.

#[path = "../../../../examples/common/mod.rs"]
mod common;
mod conditions;
mod files;
mod media_type;
mod pages;
mod range;
mod request;
mod response;
mod target;

use std::io::{self, Read};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use common::{Example, Options, Outcome};
use files::{File, Found, Root};
use http::{Method, StatusCode};
use range::Selection;
use request::{Failure, Request};
use response::{Body, Response};
use socketserver::{Connection, HandlerResult, MinRate, StreamRequestHandler};
use target::Target;

struct Files {
    root: Root,
    head_timeout: Duration,
    idle_timeout: Duration,
    /// In bytes per second.
    min_rate: u32,
    /// How long a refused client may go on sending.
    linger_timeout: Duration,
    /// How much of that is read.
    linger_bytes: u64,
}

impl StreamRequestHandler for Files {
    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        connection.set_message_timeout(Some(self.head_timeout));
        let (bytes_per_second, grace) = (self.min_rate, self.head_timeout);
        connection.set_min_rate(Some(MinRate { bytes_per_second, grace }));
        connection.set_idle_timeout(self.idle_timeout);
        // A client's system does not acknowledge a slow reader's progress before a sixteenth of its
        // receive buffer is free, which may be megabytes. Meanwhile `min_rate` bounds the client.
        connection.set_write_timeout(WRITE_TIMEOUT);
        Ok(())
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        loop {
            let request = match Request::read(connection) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(()),
                Err(Failure::Broken(error)) => return Err(error.into()),
                Err(Failure::Refused(status)) => {
                    log::info!("{}: refused: {status}", connection.peer_addr());
                    // Where the next request begins is unknown, so the connection is closed.
                    Response::error(status).send(connection, None)?;
                    self.linger(connection);
                    return Ok(());
                }
            };
            let response = self.answer(&request).unwrap_or_else(Response::error);
            let (peer, status) = (connection.peer_addr(), response.status);
            log::info!("{peer}: {} {:?} {status}", request.method, request.target);
            if !response.send(connection, Some(&request))? {
                if request.has_unread_body {
                    self.linger(connection);
                }
                return Ok(());
            }
        }
    }
}

impl Files {
    /// Discards what the client still sends, within limits. A close with unread input resets the
    /// connection, and the client may lose the response
    /// ([RFC 9112, 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)).
    fn linger(&self, connection: &mut Connection) {
        let linger = |connection: &mut Connection| {
            connection.shutdown(Shutdown::Write)?;
            connection.set_read_timeout(Some(self.idle_timeout));
            connection.set_message_timeout(Some(self.linger_timeout));
            connection.with_message_timeout(|connection| {
                io::copy(&mut connection.take(self.linger_bytes), &mut io::sink())
            })
        };
        if let Err(error) = linger(connection) {
            log::debug!("{}: while it lingers: {error}", connection.peer_addr());
        }
    }

    fn answer(&self, request: &Request) -> Result<Response, StatusCode> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return other_method(&request.method);
        }
        let target = Target::parse(&request.target)?;
        match self.root.find(&target.path)? {
            // Without the slash, the page's relative links would be resolved in its parent.
            Found::Folder(_) if !target.is_folder() => {
                Ok(Response::error(StatusCode::MOVED_PERMANENTLY)
                    .with("Location", target.with_slash()))
            }
            Found::Folder(folder) => {
                let index = [&target.path[..], b"index.html"].concat();
                match self.root.find(&index) {
                    Ok(Found::File(file)) => Ok(file_response(file, &index, request)),
                    Ok(Found::Folder(_)) | Err(StatusCode::NOT_FOUND) => {
                        listing(&target, folder, request)
                    }
                    Err(status) => Err(status),
                }
            }
            Found::File(_) if target.is_folder() => Err(StatusCode::NOT_FOUND),
            Found::File(file) => Ok(file_response(file, &target.path, request)),
        }
    }
}

/// 405 for a known method that is not served, 501 for an unknown one.
fn other_method(method: &Method) -> Result<Response, StatusCode> {
    const OTHERS: [Method; 7] = [
        Method::CONNECT,
        Method::DELETE,
        Method::OPTIONS,
        Method::PATCH,
        Method::POST,
        Method::PUT,
        Method::TRACE,
    ];
    match OTHERS.contains(method) {
        true => Ok(Response::error(StatusCode::METHOD_NOT_ALLOWED).with("Allow", "GET, HEAD")),
        false => Err(StatusCode::NOT_IMPLEMENTED),
    }
}

fn listing(target: &Target, folder: OwnedFd, request: &Request) -> Result<Response, StatusCode> {
    let html = pages::listing(target, folder)?;
    match request.conditions.failed(None) {
        Some(StatusCode::NOT_MODIFIED) => Ok(Response::new(StatusCode::NOT_MODIFIED, Body::None)),
        Some(status) => Err(status),
        None => Ok(Response::page(StatusCode::OK, html)),
    }
}

fn file_response(file: File, path: &[u8], request: &Request) -> Response {
    // `Last-Modified` must not be later than `Date` (RFC 9110, 8.8.2.1).
    let modified = file.modified.map(|modified| modified.min(SystemTime::now()));
    let response = |status, body| match modified {
        Some(time) => {
            Response::new(status, body).with("Last-Modified", httpdate::fmt_http_date(time))
        }
        None => Response::new(status, body),
    };
    match request.conditions.failed(modified) {
        Some(StatusCode::NOT_MODIFIED) => return response(StatusCode::NOT_MODIFIED, Body::None),
        Some(status) => return Response::error(status),
        None => {}
    }
    let media_type = media_type::of(path, file.whole());
    let Some(length) = file.length else {
        return response(StatusCode::OK, Body::Stream(file)).with("Content-Type", media_type);
    };
    // A range is defined for GET alone.
    let is_allowed = request.method == Method::GET && request.conditions.allow_range(modified);
    let field = request.range.as_deref().filter(|_| is_allowed);
    let response = match field.map_or(Selection::Whole, |field| range::select(field, length)) {
        Selection::Whole => response(StatusCode::OK, Body::File(file, 0..length)),
        Selection::Part(range) => {
            let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            response(StatusCode::PARTIAL_CONTENT, Body::File(file, range))
                .with("Content-Range", place)
        }
        Selection::Unsatisfiable => {
            return Response::error(StatusCode::RANGE_NOT_SATISFIABLE)
                .with("Content-Range", format!("bytes */{length}"));
        }
    };
    response.with("Accept-Ranges", "bytes").with("Content-Type", media_type)
}

/// Less than the server's `TCP_USER_TIMEOUT`.
const WRITE_TIMEOUT: Duration = Duration::from_secs(110);

fn serve(options: Options) -> Outcome {
    let files = Files {
        root: Root::open(options.value("root").unwrap_or("."))?,
        head_timeout: options.seconds("head-timeout")?.unwrap_or(Duration::from_secs(10)),
        idle_timeout: options.seconds("idle-timeout")?.unwrap_or(Duration::from_secs(5)),
        min_rate: number(&options, "min-rate")?.unwrap_or(1000),
        linger_timeout: options.seconds("linger-timeout")?.unwrap_or(Duration::from_secs(30)),
        linger_bytes: number(&options, "linger-bytes")?.unwrap_or(100_000_000),
    };
    options.serve(files)
}

fn number<T: FromStr>(options: &Options, flag: &str) -> Result<Option<T>, lexopt::Error> {
    let Some(text) = options.value(flag) else { return Ok(None) };
    let number = text.parse().map_err(|_| format!("--{flag} {text}: not a number of bytes"))?;
    Ok(Some(number))
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:8000", "Serves a directory tree over HTTP/1.1.")
        .try_it("curl -i http://{address}/")
        .flag("root", "DIR", "what to serve; the current directory by default")
        .flag("head-timeout", "SECONDS", "for a request to be whole; 10 by default")
        .flag("idle-timeout", "SECONDS", "how long to wait for a next request; 5 by default")
        .flag("min-rate", "BYTES", "a second, at which answers must be taken; 1000 by default")
        .flag("linger-timeout", "SECONDS", "how long a refused client may send on; 30 by default")
        .flag("linger-bytes", "BYTES", "how many it may send meanwhile; 100000000 by default")
        .run(serve)
}
