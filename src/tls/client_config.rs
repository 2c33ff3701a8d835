//! [`TlsClientConfig`]: whom a client of other servers trusts, and what it shows them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;

use super::certificates::{bad, read_certificate, read_roots};
use super::provider;
use super::stream::{Side, TlsStream};
use crate::error::{Error, Result};
use crate::net::Stream;

/// How a handler uses TLS to another server: see [`Connection::connect_tls`]. Cloning is cheap, and
/// clones share the sessions that can be resumed.
///
/// ```no_run
/// use std::time::Duration;
/// use socketserver::{HandlerResult, ThreadingTcpServer, TlsClientConfig, handler_fn};
///
/// let tls = TlsClientConfig::from_pem("roots.pem")?;
/// let gateway = handler_fn(move |client| {
///     let mut upstream = client.connect_tls("db.internal:6380", Duration::from_secs(3), &tls)?;
///     client.relay(&mut upstream)?;
///     Ok(())
/// });
/// ThreadingTcpServer::bind("127.0.0.1:6379", gateway)?.serve_forever()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// [`Connection::connect_tls`]: crate::Connection::connect_tls
#[derive(Clone)]
pub struct TlsClientConfig {
    config: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl TlsClientConfig {
    /// Trusts servers whose certificates were signed by those in the file `roots` (PEM), directly or by a
    /// chain, and no others: the system's own are in `/etc/ssl/certs/ca-certificates.crt` on Debian, for
    /// instance.
    ///
    /// # Errors
    /// [`Error::TlsFile`] for a file that cannot be read, or has something else in it.
    pub fn from_pem(roots: impl AsRef<Path>) -> Result<TlsClientConfig> {
        let file = roots.as_ref();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(file, error))?
            .with_root_certificates(read_roots(file)?)
            .with_no_client_auth();
        Ok(config.into())
    }

    /// The name that the server's certificate must have, a host name or an IP address; it is sent to the
    /// server as SNI. By default it is the host that is connected to. On a Unix socket there is none, so
    /// that the name must be given.
    ///
    /// # Errors
    /// [`Error::Address`] for a text that is no such name.
    pub fn server_name(mut self, name: &str) -> Result<TlsClientConfig> {
        self.name = Some(parse(name)?);
        Ok(self)
    }

    /// The certificate that is shown to servers that ask for one, as in
    /// [`TlsConfig::from_pem`](crate::TlsConfig::from_pem); none by default.
    ///
    /// # Errors
    /// [`Error::TlsFile`] for a file that cannot be read, or has something else in it.
    pub fn client_certificate(
        mut self,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<TlsClientConfig> {
        let certificate = read_certificate(chain.as_ref(), key.as_ref())?;
        let certificate = SingleCertAndKey::from(Arc::unwrap_or_clone(certificate));
        Arc::make_mut(&mut self.config).client_auth_cert_resolver = Arc::new(certificate);
        Ok(self)
    }

    /// The protocols to offer to the server, the preferred one first (ALPN,
    /// [RFC 7301](https://www.rfc-editor.org/rfc/rfc7301)); none by default.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(
        mut self,
        protocols: impl IntoIterator<Item = P>,
    ) -> TlsClientConfig {
        let protocols = protocols.into_iter().map(Into::into).collect();
        Arc::make_mut(&mut self.config).alpn_protocols = protocols;
        self
    }

    /// For a server at `host`; `None`: a Unix socket.
    pub(crate) fn side_for(&self, host: Option<&str>) -> Result<ClientSide> {
        let name = match (&self.name, host) {
            (Some(name), _) => name.clone(),
            (None, Some(host)) => parse(host)?,
            (None, None) => {
                let reason = "TLS over a Unix socket needs a server name";
                return Err(Error::Unsupported { reason });
            }
        };
        Ok(ClientSide { config: self.config.clone(), name })
    }
}

/// The client's side of a connection.
pub(crate) struct ClientSide {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ClientSide {
    /// Without timeouts, as the socket is.
    pub(crate) fn stream(&self, socket: Box<dyn Stream>) -> TlsStream {
        let side = Side::Client(self.config.clone(), self.name.clone());
        TlsStream::new(socket, side, None, None)
    }
}

fn parse(name: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(name.to_owned())
        .map_err(|error| Error::Address { text: name.to_owned(), reason: error.to_string() })
}

/// For what is not here, such as another verifier: a configuration made with [rustls](crate::rustls)
/// itself.
impl From<Arc<ClientConfig>> for TlsClientConfig {
    fn from(config: Arc<ClientConfig>) -> TlsClientConfig {
        TlsClientConfig { config, name: None }
    }
}

impl From<ClientConfig> for TlsClientConfig {
    fn from(config: ClientConfig) -> TlsClientConfig {
        Arc::new(config).into()
    }
}

impl fmt::Debug for TlsClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClientConfig")
            .field("server_name", &self.name)
            .field("alpn", &self.config.alpn_protocols)
            .finish_non_exhaustive()
    }
}
