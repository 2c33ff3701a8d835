//! Reads and parses requests.
//!
//! The parser is strict where leniency allows request smuggling: a line ends with `\r\n` only, a
//! field is not continued on the next line, a length is given once, and not beside
//! `Transfer-Encoding`.

use std::io::{self, Read};

use http::{Method, StatusCode};
use httparse::Header;
use socketserver::{Connection, Error};

use crate::conditions::Conditions;

/// The first line, its end included.
const MAX_REQUEST_LINE: usize = 8 * 1024;

/// The first line and all fields.
const MAX_HEAD: usize = 16 * 1024;

const MAX_FIELDS: usize = 100;

/// The length from which a body is refused. No method that is served needs one, so a shorter body
/// is discarded.
const MAX_BODY: u64 = 64 * 1024;

/// The parts of a request that the response depends on.
pub(crate) struct Request {
    pub(crate) method: Method,
    /// As it was sent.
    pub(crate) target: String,
    pub(crate) range: Option<String>,
    pub(crate) conditions: Conditions,
    /// Whether it is of HTTP/1.1; else of HTTP/1.0.
    pub(crate) is_1_1: bool,
    pub(crate) has_unread_body: bool,
    /// Whether another request may follow.
    pub(crate) keep_alive: bool,
}

/// Why there is no request.
pub(crate) enum Failure {
    /// The status of the response, after which the connection is closed.
    Refused(StatusCode),
    Broken(io::Error),
}

impl From<StatusCode> for Failure {
    fn from(status: StatusCode) -> Failure {
        Failure::Refused(status)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match Error::of(&error) {
            Some(Error::MessageTimeout { .. } | Error::TooSlow { .. }) => {
                Failure::Refused(StatusCode::REQUEST_TIMEOUT)
            }
            _ => Failure::Broken(error),
        }
    }
}

impl Request {
    /// Reads the next request; `None` if the client has closed, or sent nothing for the idle
    /// timeout.
    pub(crate) fn read(connection: &mut Connection) -> Result<Option<Request>, Failure> {
        // One deadline for the head and a body that is discarded.
        connection.with_message_timeout(|connection| {
            let Some(head) = read_head(connection)? else { return Ok(None) };
            let (request, body) = parse(&head)?;
            match body {
                Body::Short(length) => drop_body(connection, length)?,
                Body::Unread => {}
            }
            Ok(Some(request))
        })
    }
}

/// All lines up to and including the empty one.
fn read_head(connection: &mut Connection) -> Result<Option<Vec<u8>>, Failure> {
    let mut head = Vec::new();
    let mut skipped = false;
    loop {
        let begin = head.len();
        let (room, beyond_it) = match begin {
            0 => (MAX_REQUEST_LINE, StatusCode::URI_TOO_LONG),
            _ => (MAX_HEAD - begin, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        };
        connection.set_max_line_length(room);
        let length = match connection.read_line(&mut head) {
            Ok(length) => length,
            Err(error) => match Error::of(&error) {
                Some(Error::LineTooLong { .. }) => return Err(beyond_it.into()),
                Some(Error::IdleTimeout { .. }) => return Ok(None),
                _ => return Err(error.into()),
            },
        };
        if length == 0 && begin == 0 {
            return Ok(None);
        }
        if length == 0 || !head.ends_with(b"\n") {
            return Err(early_end(connection).into());
        }
        let Some(line) = head[begin..].strip_suffix(b"\r\n") else {
            return Err(StatusCode::BAD_REQUEST.into());
        };
        if line.is_empty() {
            if begin > 0 || skipped {
                return Ok(Some(head));
            }
            // One before a request is skipped: some clients send it after a body
            // (https://www.rfc-editor.org/rfc/rfc9112#section-2.2).
            skipped = true;
            head.clear();
        }
    }
}

fn drop_body(connection: &mut Connection, length: u64) -> Result<(), Failure> {
    match io::copy(&mut connection.take(length), &mut io::sink())? == length {
        true => Ok(()),
        false => Err(early_end(connection).into()),
    }
}

/// The status for a request that ends early: 503 if a stop of this server has cut it off, else 400.
fn early_end(connection: &Connection) -> StatusCode {
    match connection.is_stopping() {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::BAD_REQUEST,
    }
}

/// What follows the head.
enum Body {
    /// Discarded; mostly of length 0.
    Short(u64),
    /// Not read, so the connection is closed after the response: the body is chunked, or the client
    /// waits for a `100 Continue`.
    Unread,
}

fn parse(head: &[u8]) -> Result<(Request, Body), StatusCode> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(head).map_err(|error| match error {
        httparse::Error::Version if has_version(head) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        httparse::Error::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    })?;
    let (Some(method), Some(target), Some(minor_version)) =
        (parsed.method, parsed.path, parsed.version)
    else {
        return Err(StatusCode::BAD_REQUEST);
    };
    let fields = Fields(parsed.headers);
    let is_1_1 = minor_version == 1;
    check_host(&fields, is_1_1)?;
    let body = framing(&fields, is_1_1)?;
    let has_unread_body = matches!(body, Body::Unread);
    let request = Request {
        method: Method::from_bytes(method.as_bytes()).map_err(|_| StatusCode::BAD_REQUEST)?,
        target: target.to_owned(),
        range: fields.only("range").map(str::to_owned),
        conditions: Conditions::of(&fields),
        is_1_1,
        has_unread_body,
        keep_alive: !has_unread_body
            && !fields.lists("connection", "close")
            && (is_1_1 || fields.lists("connection", "keep-alive")),
    };
    Ok((request, body))
}

/// Whether the first line ends with the number of a version, supported or not.
fn has_version(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let last = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    matches!(last, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// [RFC 9112, 3.2](https://www.rfc-editor.org/rfc/rfc9112#section-3.2). Any host is accepted.
fn check_host(fields: &Fields, is_1_1: bool) -> Result<(), StatusCode> {
    let is_of_a_host =
        |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:[]".contains(byte);
    let mut hosts = fields.all("host");
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if host.iter().all(is_of_a_host) => Ok(()),
        (None, None) if !is_1_1 => Ok(()),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// [RFC 9112, 6.3](https://www.rfc-editor.org/rfc/rfc9112#section-6.3).
fn framing(fields: &Fields, is_1_1: bool) -> Result<Body, StatusCode> {
    let mut lengths = fields.all("content-length");
    let length = (lengths.next(), lengths.next());
    let codings: Vec<&[u8]> = fields.list("transfer-encoding").collect();
    match (length, &codings[..]) {
        ((None, _), [coding]) if is_1_1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Body::Unread)
        }
        ((None, _), [_, .., last]) if is_1_1 && last.eq_ignore_ascii_case(b"chunked") => {
            Err(StatusCode::NOT_IMPLEMENTED)
        }
        ((Some(length), None), []) => match number(length)? {
            MAX_BODY.. => Err(StatusCode::PAYLOAD_TOO_LARGE),
            1.. if fields.has("expect") => Ok(Body::Unread),
            length => Ok(Body::Short(length)),
        },
        ((None, _), []) if !fields.has("transfer-encoding") => Ok(Body::Short(0)),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// Digits only; a number that does not fit is too long in any case.
fn number(digits: &[u8]) -> Result<u64, StatusCode> {
    match str::from_utf8(digits) {
        Ok(text) if !text.is_empty() && digits.iter().all(u8::is_ascii_digit) => {
            Ok(text.parse().unwrap_or(u64::MAX))
        }
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// The header fields of a request.
pub(crate) struct Fields<'a>(&'a [Header<'a>]);

impl<'a> Fields<'a> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    fn all(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.0.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| field.value)
    }

    /// The value of a field that occurs once.
    pub(crate) fn only(&self, name: &str) -> Option<&'a str> {
        let mut values = self.all(name);
        let value = values.next().filter(|_| values.next().is_none())?;
        str::from_utf8(value).ok()
    }

    /// The members of a list, which several fields may share.
    pub(crate) fn list(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let members = self.all(name).flat_map(|value| value.split(|byte| *byte == b','));
        members.map(<[u8]>::trim_ascii).filter(|member| !member.is_empty())
    }

    fn lists(&self, name: &str, wanted: &str) -> bool {
        self.list(name).any(|member| member.eq_ignore_ascii_case(wanted.as_bytes()))
    }
}
