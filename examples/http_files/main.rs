//! A directory tree over HTTP/1.1 ([RFC 9110](https://www.rfc-editor.org/rfc/rfc9110),
//! [RFC 9112](https://www.rfc-editor.org/rfc/rfc9112)): small enough to read, strict in what it
//! takes.
//!
//! ```sh
//! cargo run --example http_files -- --root .
//! curl -i http://127.0.0.1:8000/
//! curl -r 0-99 http://127.0.0.1:8000/README.md
//! cargo run --example http_get -- http://127.0.0.1:8000/README.md
//! ```
//!
//! It answers GET and HEAD, one range at a time, `If-Modified-Since` and `If-Unmodified-Since`;
//! connections stay open for more requests, which may come before they are answered. It makes no
//! entity tags, and decodes no bodies: a small one is dropped, and whatever else comes with a body
//! ends its connection.
//!
//! Under `--mixin fibers` it reads files in place. A piece of a file that the system has at hand is
//! there sooner than `Fibers::offload` could hand it over; on a disk that is slow, all clients of a
//! worker wait meanwhile. Under `--mixin sequential` a client has the server to itself for as long
//! as its connection stays open: at most `--idle-timeout` beyond its last request.

#[path = "../common/mod.rs"]
mod common;
mod files;
mod pages;
mod range;
mod request;
mod response;
mod target;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
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
    /// In bytes a second.
    min_rate: u32,
}

impl StreamRequestHandler for Files {
    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        connection.set_message_timeout(self.head_timeout);
        let (bytes_per_second, grace) = (self.min_rate, self.head_timeout);
        connection.set_min_rate(MinRate { bytes_per_second, grace });
        connection.set_idle_timeout(self.idle_timeout);
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
                    // Nobody knows where the next request would begin.
                    return Ok(Response::error(status).send(connection, false, false)?);
                }
            };
            let response = self.answer(&request).unwrap_or_else(Response::error);
            let Request { method, target, keep_alive, .. } = request;
            log::info!("{}: {method} {target:?} {}", connection.peer_addr(), response.status);
            response.send(connection, method == Method::HEAD, keep_alive)?;
            if !keep_alive {
                return Ok(());
            }
        }
    }
}

impl Files {
    fn answer(&self, request: &Request) -> Result<Response, StatusCode> {
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return other_method(&request.method);
        }
        let target = Target::parse(&request.target)?;
        match self.root.find(&target.path)? {
            // Without the slash, the links of the page would lead elsewhere.
            Found::Folder(_) if !target.is_folder() => {
                Ok(Response::error(StatusCode::MOVED_PERMANENTLY)
                    .with("Location", target.with_slash()))
            }
            Found::Folder(folder) => {
                let index = [&target.path[..], b"index.html"].concat();
                match self.root.find(&index) {
                    Ok(Found::File(file)) => Ok(file_response(file, &index, request)),
                    _ => Ok(Response::page(StatusCode::OK, pages::listing(&target, folder)?)),
                }
            }
            Found::File(_) if target.is_folder() => Err(StatusCode::NOT_FOUND),
            Found::File(file) => Ok(file_response(file, &target.path, request)),
        }
    }
}

/// A method that others serve is not allowed here; of any else nothing is known.
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

fn file_response(file: File, path: &[u8], request: &Request) -> Response {
    // Nothing is told to have changed after it was sent.
    let modified = file.modified.map(|modified| modified.min(SystemTime::now()));
    let response = |status, body| {
        let response = Response::new(status, body).with("Accept-Ranges", "bytes");
        match modified {
            Some(time) => response.with("Last-Modified", httpdate::fmt_http_date(time)),
            None => response,
        }
    };
    let unmodified = modified.zip(request.if_unmodified_since);
    if request.if_tagged || unmodified.is_some_and(|(modified, since)| modified > since) {
        return Response::error(StatusCode::PRECONDITION_FAILED);
    }
    if modified.zip(request.if_modified_since).is_some_and(|(modified, since)| modified <= since) {
        return response(StatusCode::NOT_MODIFIED, Body::None);
    }
    let length = file.length;
    // A range is defined for GET alone.
    let field = request.range.as_deref().filter(|_| request.method == Method::GET);
    match field.map_or(Selection::Whole, |field| range::select(field, length)) {
        Selection::Whole => response(StatusCode::OK, Body::File(file, 0..length))
            .with("Content-Type", media_type(path)),
        Selection::Part(range) => {
            let place = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            response(StatusCode::PARTIAL_CONTENT, Body::File(file, range))
                .with("Content-Type", media_type(path))
                .with("Content-Range", place)
        }
        Selection::Unsatisfiable => Response::error(StatusCode::RANGE_NOT_SATISFIABLE)
            .with("Content-Range", format!("bytes */{length}")),
    }
}

/// By the name. Text is taken to be UTF-8, as browsers would not by themselves.
fn media_type(path: &[u8]) -> String {
    let guess = mime_guess::from_path(OsStr::from_bytes(path)).first_raw();
    let guess = guess.unwrap_or("application/octet-stream");
    if guess.starts_with("text/") { format!("{guess}; charset=utf-8") } else { guess.to_owned() }
}

fn serve(options: Options) -> Outcome {
    let files = Files {
        root: Root::open(options.value("root").unwrap_or("."))?,
        head_timeout: options.seconds("head-timeout")?.unwrap_or(Duration::from_secs(10)),
        idle_timeout: options.seconds("idle-timeout")?.unwrap_or(Duration::from_secs(5)),
        min_rate: rate(&options)?,
    };
    options.serve(files)
}

fn rate(options: &Options) -> Result<u32, lexopt::Error> {
    let text = options.value("min-rate").unwrap_or("1000");
    text.parse().map_err(|_| format!("--min-rate {text}: not a number of bytes").into())
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:8000", "Serves a directory tree over HTTP/1.1.")
        .try_it("curl -i http://{address}/")
        .flag("root", "DIR", "what to serve; the current directory by default")
        .flag("head-timeout", "SECONDS", "for a request to be whole; 10 by default")
        .flag("idle-timeout", "SECONDS", "how long to wait for a next request; 5 by default")
        .flag("min-rate", "BYTES", "a second, at which answers must be taken; 1000 by default")
        .run(serve)
}
