//! [`TlsConfig`]: the certificates of a server, and what it asks of its clients.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::ring::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::certificates::{CertificatesByName, bad, read_certificate, read_roots};
use super::provider;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;

/// Of a session whose client has shown a chain of certificates.
const LONGEST_TICKET: usize = 16 * 1024;

/// How a server uses TLS: see [`Builder::tls`](crate::Builder::tls). Cloning is cheap.
///
/// TLS 1.2 and 1.3, with the cipher suites that rustls has, all of which are secure. Sessions are resumed
/// by tickets, whose keys are those of this configuration.
///
/// ```no_run
/// use socketserver::{ClientCertificates, ThreadingTcpServer, TlsConfig, services::Echo};
///
/// let tls = TlsConfig::from_pem("chain.pem", "key.pem")?
///     .also_certificate("other.chain.pem", "other.key.pem")?
///     .client_certificates(ClientCertificates::Optional, "clients.pem")?;
/// ThreadingTcpServer::builder().tls(tls).bind("[::]:7443", Echo)?.serve_forever()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct TlsConfig {
    config: Arc<ServerConfig>,
    /// The program has made `config` itself.
    is_of_program: bool,
    /// Those that are chosen by name.
    certificates: Vec<Arc<CertifiedKey>>,
    /// For all other names.
    otherwise: Arc<dyn ResolvesServerCert>,
}

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// A client may have one. One that is not valid ends the handshake.
    Optional,
    /// The handshake of a client without one fails.
    Required,
}

impl TlsConfig {
    /// A server with a certificate. `chain` is a file with the certificate and those that connect it
    /// with a root, in this order; `key` has its private key (PKCS #8, SEC 1 or PKCS #1). Both are in
    /// PEM ([RFC 7468](https://www.rfc-editor.org/rfc/rfc7468)), and may be the same file.
    ///
    /// # Errors
    /// [`Error::TlsFile`] for a file that cannot be read, or has something else in it.
    pub fn from_pem(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<TlsConfig> {
        let chain = chain.as_ref();
        let certificate = read_certificate(chain, key.as_ref())?;
        let otherwise = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&certificate)));
        let config = new_config(None, otherwise.clone()).map_err(|error| bad(chain, error))?;
        Ok(TlsConfig {
            config: Arc::new(config),
            is_of_program: false,
            certificates: vec![certificate],
            otherwise,
        })
    }

    /// One more certificate, for clients that ask for a name that it has
    /// (SNI, [RFC 6066, 3](https://www.rfc-editor.org/rfc/rfc6066#section-3)). Of several the first that
    /// fits is used. Clients that ask for no name, or for one that none has, get the first of all.
    ///
    /// # Errors
    /// Those of [`from_pem`](TlsConfig::from_pem).
    pub fn also_certificate(
        mut self,
        chain: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<TlsConfig> {
        self.certificates.push(read_certificate(chain.as_ref(), key.as_ref())?);
        Arc::make_mut(&mut self.config).cert_resolver = Arc::new(CertificatesByName {
            certificates: self.certificates.clone(),
            otherwise: self.otherwise.clone(),
        });
        Ok(self)
    }

    /// Asks clients for certificates. Those in the file `roots` (PEM) sign them. By default none is asked
    /// for. [`Connection::tls`](crate::Connection::tls) has a client's; revocation is not checked.
    ///
    /// # Errors
    /// [`Error::TlsFile`] for a file that cannot be read, or has something else in it; and for a
    /// configuration [made with rustls](TlsConfig#impl-From<Arc<ServerConfig>>-for-TlsConfig), which has
    /// decided this.
    pub fn client_certificates(
        self,
        demand: ClientCertificates,
        roots: impl AsRef<Path>,
    ) -> Result<TlsConfig> {
        let file = roots.as_ref();
        if self.is_of_program {
            return Err(bad(file, "the configuration was made with rustls"));
        }
        let roots = read_roots(file)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
        let verifier = match demand {
            ClientCertificates::Optional => verifier.allow_unauthenticated(),
            ClientCertificates::Required => verifier,
        };
        let verifier = verifier.build().map_err(|error| bad(file, error))?;
        let resolver = self.config.cert_resolver.clone();
        let mut config = new_config(Some(verifier), resolver).map_err(|error| bad(file, error))?;
        config.alpn_protocols.clone_from(&self.config.alpn_protocols);
        Ok(TlsConfig { config: Arc::new(config), ..self })
    }

    /// The protocols that the server speaks, the preferred one first (ALPN,
    /// [RFC 7301](https://www.rfc-editor.org/rfc/rfc7301)); by default none, and then the client's are
    /// ignored. The handshake of a client that has protocols but none of these fails.
    /// [`Connection::tls`](crate::Connection::tls) has the one that was chosen.
    #[must_use]
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> TlsConfig {
        let protocols = protocols.into_iter().map(Into::into).collect();
        Arc::make_mut(&mut self.config).alpn_protocols = protocols;
        self
    }

    pub(crate) fn into_inner(self) -> Arc<ServerConfig> {
        self.config
    }
}

fn new_config(
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<ServerConfig, rustls::Error> {
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match verifier {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let mut config = builder.with_cert_resolver(resolver);
    // The other way, a table of sessions, is of no use where each connection has a process.
    config.ticketer = Ticketer::new()?;
    // It takes no ticket that is longer than those that it has made, which a forked child has not yet.
    let _ = config.ticketer.encrypt(&[0; LONGEST_TICKET]);
    Ok(config)
}

/// For what is not here, such as revocation lists or other cipher suites: a configuration made with
/// [rustls](crate::rustls) itself.
impl From<Arc<ServerConfig>> for TlsConfig {
    fn from(config: Arc<ServerConfig>) -> TlsConfig {
        let otherwise = config.cert_resolver.clone();
        TlsConfig { config, is_of_program: true, certificates: Vec::new(), otherwise }
    }
}

impl From<ServerConfig> for TlsConfig {
    fn from(config: ServerConfig) -> TlsConfig {
        Arc::new(config).into()
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("certificates", &self.certificates.len())
            .field("alpn", &self.config.alpn_protocols)
            .finish_non_exhaustive()
    }
}
