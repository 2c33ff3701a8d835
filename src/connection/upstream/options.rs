//! [`ConnectOptions`]: how a handler connects to another server.

use std::time::Duration;

use crate::connection::timeouts::in_range;
use crate::proxy_protocol::{ProxyHeader, Version};
#[cfg(feature = "tls")]
use crate::tls::TlsClientConfig;

/// How to [connect](crate::Connection::connect) to another server: within which time, and what is sent
/// first.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    pub(super) timeout: Duration,
    /// As it is sent.
    pub(super) proxy_header: Option<Vec<u8>>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsClientConfig>,
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
        ConnectOptions {
            timeout: in_range(timeout),
            proxy_header: None,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Connects over TLS. The timeout is for the handshake too, and the header of the
    /// [PROXY protocol](ConnectOptions::proxy_header), if there is one, comes before it.
    ///
    /// The server's certificate must be for the host of the address, or for the
    /// [name](TlsClientConfig::server_name) that the configuration has, and be signed by one that it trusts.
    /// [`Connection::tls`](crate::Connection::tls) says what was agreed on.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, config: &TlsClientConfig) -> ConnectOptions {
        self.tls = Some(config.clone());
        self
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
