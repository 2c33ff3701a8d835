//! Responses, and how they are sent.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::ops::Range;
use std::time::SystemTime;

use http::{Method, StatusCode};
use socketserver::Connection;

use crate::files::{File, PIECE};
use crate::pages;
use crate::request::Request;

pub(crate) struct Response {
    pub(crate) status: StatusCode,
    fields: Vec<(&'static str, String)>,
    body: Body,
}

pub(crate) enum Body {
    None,
    Page(String),
    File(File, Range<u64>),
    /// A file whose length is not known.
    Stream(File),
}

impl Response {
    pub(crate) fn new(status: StatusCode, body: Body) -> Response {
        Response { status, fields: Vec::new(), body }
    }

    /// An HTML page.
    pub(crate) fn page(status: StatusCode, html: String) -> Response {
        Response::new(status, Body::Page(html)).with("Content-Type", "text/html; charset=utf-8")
    }

    /// A page that shows the status.
    pub(crate) fn error(status: StatusCode) -> Response {
        Response::page(status, pages::error(status))
    }

    /// Adds a header field.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.fields.push((name, value.into()));
        self
    }

    /// Sends the response to a request, or to what is none. Returns whether another request may
    /// follow.
    pub(crate) fn send(
        self,
        connection: &mut Connection,
        request: Option<&Request>,
    ) -> io::Result<bool> {
        let is_head = request.is_some_and(|request| request.method == Method::HEAD);
        let is_1_1 = request.is_some_and(|request| request.is_1_1);
        // HTTP/1.0 has no chunks: only the end of the connection ends a body of unknown length.
        let keep_alive = request.is_some_and(|request| request.keep_alive)
            && (is_1_1 || !matches!(self.body, Body::Stream(_)));
        connection.write_all(self.head(is_1_1, keep_alive).as_bytes())?;
        match self.body {
            _ if is_head => {}
            Body::None => {}
            Body::Page(html) => connection.write_all(html.as_bytes())?,
            Body::File(file, range) => copy(&file, range, connection)?,
            Body::Stream(file) => copy_to_end(&file, is_1_1, connection)?,
        }
        Ok(keep_alive)
    }

    fn head(&self, is_1_1: bool, keep_alive: bool) -> String {
        let reason = self.status.canonical_reason().unwrap_or_default();
        let date = httpdate::fmt_http_date(SystemTime::now());
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let mut head = format!(
            "HTTP/1.1 {} {reason}\r\nDate: {date}\r\nConnection: {connection}\r\n",
            self.status.as_str()
        );
        let length = match &self.body {
            Body::None | Body::Stream(_) => None,
            Body::Page(html) => Some(html.len() as u64),
            Body::File(_, range) => Some(range.end - range.start),
        };
        // Writing to a string does not fail.
        if let Some(length) = length {
            let _ = write!(head, "Content-Length: {length}\r\n");
        }
        if is_1_1 && matches!(self.body, Body::Stream(_)) {
            head.push_str("Transfer-Encoding: chunked\r\n");
        }
        for (name, value) in &self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head + "\r\n"
    }
}

/// Sends a range of a file. If the file was truncated meanwhile, the error closes the connection:
/// that is the only way to tell the client that the body is shorter than its `Content-Length`.
fn copy(file: &File, range: Range<u64>, connection: &mut Connection) -> io::Result<()> {
    let length = range.end - range.start;
    let mut piece = vec![0; length.min(PIECE as u64) as usize];
    let mut at = range.start;
    while at < range.end {
        let wanted = (range.end - at).min(PIECE as u64) as usize;
        let read = file.read_at(&mut piece[..wanted], at)?;
        if read == 0 {
            return Err(io::Error::other("the file has shrunk while it was sent"));
        }
        connection.write_all(&piece[..read])?;
        at += read as u64;
    }
    Ok(())
}

/// Sends a file up to its end, which only chunks let the client tell from an error.
fn copy_to_end(file: &File, is_chunked: bool, connection: &mut Connection) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut at = 0;
    loop {
        let read = file.read_at(&mut piece, at)?;
        if is_chunked {
            write!(connection, "{read:x}\r\n")?;
        }
        connection.write_all(&piece[..read])?;
        if is_chunked {
            connection.write_all(b"\r\n")?;
        }
        // A chunk of length 0 is the last.
        if read == 0 {
            return Ok(());
        }
        at += read as u64;
    }
}
