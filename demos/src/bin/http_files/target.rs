//! The target of a request, parsed and decoded.

use http::StatusCode;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What is escaped in a query that is sent back.
const QUERY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A target that is a path.
pub(crate) struct Target<'a> {
    /// The path as it was sent, but with one slash for several in a row. It begins with a slash.
    pub(crate) raw_path: String,
    query: Option<&'a str>,
    /// The decoded path without its first slash; empty for the root.
    pub(crate) path: Vec<u8>,
}

impl Target<'_> {
    /// Parses both forms that a server must accept: `/path`, and `http://host/path` as proxies are
    /// sent it.
    ///
    /// The query may have any character: browsers do not encode `|` and others, and the server does
    /// not use it.
    pub(crate) fn parse(text: &str) -> Result<Target<'_>, StatusCode> {
        let (uri, query) = match text.split_once('?') {
            Some((uri, query)) => (uri, Some(query)),
            None => (text, None),
        };
        if !uri.bytes().all(is_of_a_path) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let raw_path = if uri.starts_with('/') { uri } else { without_host(uri)? };
        let raw_path = with_single_slashes(raw_path);
        Ok(Target { path: decode(&raw_path)?, raw_path, query })
    }

    /// Whether the path ends with a slash.
    pub(crate) fn is_folder(&self) -> bool {
        self.raw_path.ends_with('/')
    }

    /// The path with a slash added, and the query: where a folder is redirected to.
    pub(crate) fn with_slash(&self) -> String {
        let query = self.query.map(|query| format!("?{}", utf8_percent_encode(query, QUERY)));
        format!("{}/{}", self.raw_path, query.unwrap_or_default())
    }
}

/// [RFC 3986, 2](https://www.rfc-editor.org/rfc/rfc3986#section-2), without `#`, which is never
/// sent, and `?`, which ends the path.
fn is_of_a_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/[]@!$&'()*+,;=%".contains(&byte)
}

/// The path, which begins with a slash even if it is empty, as in `http://host`. As a `Location`,
/// `//name` would redirect to another host.
fn with_single_slashes(path: &str) -> String {
    let mut single = String::from("/");
    for character in path.chars() {
        if character != '/' || !single.ends_with('/') {
            single.push(character);
        }
    }
    single
}

/// What follows the host. Any host is accepted: the server does not know its own names.
fn without_host(text: &str) -> Result<&str, StatusCode> {
    const SCHEME: &str = "http://";
    let rest = match text.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host.is_empty() || host.starts_with(':') || host.contains('@') {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(path)
}

/// Decodes each name by itself, so that `%2f` does not become a separator. Refuses `.` and `..`.
fn decode(raw_path: &str) -> Result<Vec<u8>, StatusCode> {
    let raw_path = raw_path.strip_prefix('/').unwrap_or(raw_path);
    let mut path = Vec::with_capacity(raw_path.len());
    let mut names = raw_path.split('/').peekable();
    while let Some(raw) = names.next() {
        if !is_well_encoded(raw) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let name: Vec<u8> = percent_decode_str(raw).collect();
        let is_last = names.peek().is_none();
        if matches!(&name[..], b"." | b"..") || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
            return Err(StatusCode::NOT_FOUND);
        }
        path.extend(name);
        if !is_last {
            path.push(b'/');
        }
    }
    Ok(path)
}

/// Whether each `%` is followed by two hexadecimal digits.
fn is_well_encoded(raw: &str) -> bool {
    raw.split('%')
        .skip(1)
        .all(|rest| rest.len() >= 2 && rest.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()))
}
