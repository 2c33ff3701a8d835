//! TLS ([RFC 8446](https://www.rfc-editor.org/rfc/rfc8446), and TLS 1.2), by
//! [rustls](https://docs.rs/rustls): how a server or an upstream is to have it ([`TlsConfig`],
//! [`TlsClientConfig`]), the stream that encrypts ([`TlsStream`]), and its [`handshake`].

mod certificates;
mod client_config;
mod config;
mod handshake;
mod info;
mod session;
mod stream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub(crate) use client_config::ClientSide;
pub use client_config::TlsClientConfig;
pub use config::{ClientCertificates, TlsConfig};
pub(crate) use handshake::{handshake, of};
pub use info::TlsInfo;
pub(crate) use stream::{Side, TlsStream};

/// What signs, encrypts and makes random numbers.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
