//! Reads the head of an HTTP request.

use std::io;
use std::time::Duration;

use http::{Request, StatusCode, header};
use socketserver::{Connection, Error};

/// For all of the head.
const TIMEOUT: Duration = Duration::from_secs(10);

/// In bytes.
const MAX_LINE: usize = 8 * 1024;
const MAX_HEAD: usize = 16 * 1024;

const MAX_FIELDS: usize = 100;

/// Why there is no request.
pub(crate) enum Failure {
    /// The status of the response.
    Refused(StatusCode),
    Broken(io::Error),
}

/// Reads a request without a body, whose first line begins with bytes that were read.
pub(crate) fn read(connection: &mut Connection, begin: &[u8]) -> Result<Request<()>, Failure> {
    connection.set_message_timeout(TIMEOUT);
    let head = connection.with_message_timeout(|connection| read_head(connection, begin));
    let head = head.map_err(|error| match Error::of(&error) {
        Some(Error::LineTooLong { .. }) => {
            Failure::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
        }
        Some(Error::MessageTimeout { .. }) => Failure::Refused(StatusCode::REQUEST_TIMEOUT),
        _ => Failure::Broken(error),
    })?;
    parse(&head).ok_or(Failure::Refused(StatusCode::BAD_REQUEST))
}

/// All lines up to and including the empty one.
fn read_head(connection: &mut Connection, begin: &[u8]) -> io::Result<Vec<u8>> {
    let mut head = begin.to_vec();
    loop {
        let begin = head.len();
        connection.set_max_line_length(MAX_LINE.min(MAX_HEAD - begin));
        if connection.read_line(&mut head)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if matches!(&head[begin..], b"\r\n" | b"\n") {
            return Ok(head);
        }
    }
}

fn parse(head: &[u8]) -> Option<Request<()>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    parsed.parse(head).ok().filter(httparse::Status::is_complete)?;
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    if parsed.version? == 0 {
        request = request.version(http::Version::HTTP_10);
    }
    for field in parsed.headers {
        request = request.header(field.name, field.value);
    }
    let request = request.body(()).ok()?;
    // Which is also what the origin is compared with.
    (request.headers().get_all(header::HOST).iter().count() <= 1).then_some(request)
}

/// Whether a page of this host asks, or no page. A browser lets any page connect to any WebSocket,
/// and tells the server which page it is
/// ([RFC 6455, 10.2](https://www.rfc-editor.org/rfc/rfc6455#section-10.2)).
pub(crate) fn is_same_origin(request: &Request<()>) -> bool {
    let host = request.headers().get(header::HOST).map(|host| host.as_bytes());
    request.headers().get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin
            .zip(host)
            .is_some_and(|((_, of_page), host)| of_page.as_bytes().eq_ignore_ascii_case(host))
    })
}
