//! [`ConnectOptions`]: how a handler connects to another server.

use std::time::Duration;

use crate::connection::timeouts::in_range;
use crate::proxy_protocol::{ProxyHeader, Version};

/// How to [connect](crate::Connection::connect) to another server: within which time, and what is sent
/// first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    pub(super) timeout: Duration,
    /// As it is sent.
    pub(super) proxy_header: Option<Vec<u8>>,
}

/// With this timeout.
impl From<Duration> for ConnectOptions {
    fn from(timeout: Duration) -> ConnectOptions {
        ConnectOptions::new(timeout)
    }
}

impl ConnectOptions {
    /// Within `timeout`, in which the name is looked up too. Zero counts as one millisecond.
    pub fn new(timeout: Duration) -> ConnectOptions {
        ConnectOptions { timeout: in_range(timeout), proxy_header: None }
    }

    /// Sends a header of the [PROXY protocol](crate::proxy_protocol) at once, before anything else: the
    /// other server takes the connection for that of the header's client. A [`ProxyHeader`] can be made
    /// from the `&Connection` of a client.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use socketserver::proxy_protocol::Version;
    /// use socketserver::{ConnectOptions, Connection, HandlerResult};
    ///
    /// fn gateway(client: &mut Connection) -> HandlerResult {
    ///     let options = ConnectOptions::new(Duration::from_secs(3));
    ///     let options = options.proxy_header(&*client, Version::V2);
    ///     let mut upstream = client.connect("10.0.0.5:25", options)?;
    ///     client.relay(&mut upstream)?;
    ///     Ok(())
    /// }
    /// ```
    pub fn proxy_header(
        mut self,
        header: impl Into<ProxyHeader>,
        version: Version,
    ) -> ConnectOptions {
        self.proxy_header = Some(header.into().encode(version));
        self
    }
}
