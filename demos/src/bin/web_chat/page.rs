//! The page, and the other answers to a browser.

use std::io::{self, Write};
use std::time::SystemTime;

use data_encoding::BASE64;
use http::StatusCode;
use sha2::{Digest, Sha256};
use socketserver::Connection;

const PAGE: &str = include_str!("page.html");

/// The one page, with a policy by which a browser runs no other script than that of the page, shows
/// no other style, and connects to no other server
/// ([CSP](https://www.w3.org/TR/CSP3/)).
pub(crate) struct Page {
    fields: String,
}

impl Page {
    pub(crate) fn new() -> Page {
        let fields = format!(
            "Content-Security-Policy: default-src 'none'; script-src '{}'; style-src '{}'; \
             img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
             frame-ancestors 'none'\r\n\
             Referrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n",
            hash("script"),
            hash("style"),
        );
        Page { fields }
    }

    pub(crate) fn send(&self, connection: &mut Connection) -> io::Result<()> {
        respond(connection, StatusCode::OK, "text/html", &self.fields, PAGE)
    }
}

/// Of the one element of this kind, as the policy names it.
fn hash(element: &str) -> String {
    let text = PAGE.split_once(&format!("<{element}>")).expect("the page has it").1;
    let text = text.split_once(&format!("</{element}>")).expect("it has an end").0;
    format!("sha256-{}", BASE64.encode(&Sha256::digest(text)))
}

/// Answers a request that cannot be served.
pub(crate) fn refuse(connection: &mut Connection, status: StatusCode) -> io::Result<()> {
    let fields = match status {
        StatusCode::UPGRADE_REQUIRED => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        _ => "",
    };
    respond(connection, status, "text/plain", fields, &format!("{status}\n"))
}

fn respond(
    connection: &mut Connection,
    status: StatusCode,
    media_type: &str,
    fields: &str,
    body: &str,
) -> io::Result<()> {
    write!(
        connection,
        "HTTP/1.1 {status}\r\nDate: {}\r\nContent-Type: {media_type}; charset=utf-8\r\n\
         Content-Length: {}\r\nX-Content-Type-Options: nosniff\r\n{fields}\
         Connection: close\r\n\r\n{body}",
        httpdate::fmt_http_date(SystemTime::now()),
        body.len()
    )
}
