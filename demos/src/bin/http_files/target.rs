//! The target of a request, parsed and decoded.

use http::StatusCode;
use percent_encoding::percent_decode_str;

/// A target that is a path.
pub(crate) struct Target<'a> {
    /// The path as it was sent, which begins with a slash.
    pub(crate) raw_path: &'a str,
    query: Option<&'a str>,
    /// The decoded path without its first slash; empty for the root.
    pub(crate) path: Vec<u8>,
}

impl Target<'_> {
    /// Parses both forms that a server must accept: `/path`, and `http://host/path` as proxies are
    /// sent it.
    pub(crate) fn parse(text: &str) -> Result<Target<'_>, StatusCode> {
        if !text.bytes().all(is_of_a_uri) {
            return Err(StatusCode::BAD_REQUEST);
        }
        let local = if text.starts_with('/') { text } else { without_host(text)? };
        let (raw_path, query) = match local.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (local, None),
        };
        // In `http://host` and `http://host?query`, the empty path is the root.
        let raw_path = if raw_path.is_empty() { "/" } else { raw_path };
        Ok(Target { raw_path, query, path: decode(raw_path)? })
    }

    /// Whether the path ends with a slash.
    pub(crate) fn is_folder(&self) -> bool {
        self.raw_path.ends_with('/')
    }

    /// The path with a slash added, and the query: where a folder is redirected to.
    pub(crate) fn with_slash(&self) -> String {
        let query = self.query.map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}/{query}", self.raw_path)
    }
}

/// [RFC 3986, 2](https://www.rfc-editor.org/rfc/rfc3986#section-2), without `#`, which is never
/// sent.
fn is_of_a_uri(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:/?[]@!$&'()*+,;=%".contains(&byte)
}

/// What follows the host. Any host is accepted: the server does not know its own names.
fn without_host(text: &str) -> Result<&str, StatusCode> {
    const SCHEME: &str = "http://";
    let rest = match text.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    let (host, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if host.is_empty() || host.starts_with(':') || host.contains('@') {
        return Err(StatusCode::BAD_REQUEST);
    }
    Ok(local)
}

/// Decodes each name by itself, so that `%2f` does not become a separator. Refuses `.` and `..`.
///
/// Empty names are refused as well: `//name` as a `Location` would redirect to another host.
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
        if matches!(&name[..], b"." | b"..") || (name.is_empty() && !is_last) {
            return Err(StatusCode::NOT_FOUND);
        }
        if name.iter().any(|byte| matches!(byte, b'/' | 0)) {
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
