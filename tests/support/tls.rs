//! Certificates, and clients over TLS. A module of its own, because some programs that have the other
//! modules lack the feature.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use socketserver::extend::*;
use socketserver::rustls::pki_types::pem::PemObject;
use socketserver::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use socketserver::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use socketserver::*;

use crate::support::clients::Client;
use crate::support::servers::{Settings, StreamSettings};

/// A file that `tests/certificates/make` has made.
pub(crate) fn file(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "certificates", name].iter().collect()
}

/// A certificate of that directory, with its key.
pub(crate) fn pair(name: &str) -> [PathBuf; 2] {
    [file(&format!("{name}.pem")), file(&format!("{name}.key"))]
}

/// The server's, which has the certificate `localhost`.
pub(crate) fn server_config() -> TlsConfig {
    config_of("localhost")
}

pub(crate) fn config_of(name: &str) -> TlsConfig {
    let [chain, key] = pair(name);
    TlsConfig::from_pem(chain, key).unwrap()
}

/// Of the crate, for upstreams.
pub(crate) fn upstream_config() -> TlsClientConfig {
    TlsClientConfig::from_pem(file("authority.pem")).unwrap()
}

/// Of rustls itself, with a client certificate or without.
pub(crate) fn client_config(certificate: Option<&str>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("authority.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match certificate.map(pair) {
        None => builder.with_no_client_auth(),
        Some([chain, key]) => {
            let chain = vec![CertificateDer::from_pem_file(chain).unwrap()];
            let key = PrivateKeyDer::from_pem_file(key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// A client over TLS, with blocking calls.
pub(crate) type TlsClient = StreamOwned<ClientConnection, Socket>;

pub(crate) struct Socket(pub(crate) Client);

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&self.0).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to a server, and trusts the authority. The handshake is done by the first read or write.
pub(crate) fn connect(server: &RunningServer) -> TlsClient {
    connect_with(server, client_config(None), "localhost")
}

pub(crate) fn connect_with(server: &RunningServer, config: ClientConfig, name: &str) -> TlsClient {
    connect_at(server.local_addr(), config, name)
}

pub(crate) fn connect_at(
    address: impl Into<Endpoint>,
    config: ClientConfig,
    name: &str,
) -> TlsClient {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, Socket(Client::at(address)))
}

/// Does the handshake.
pub(crate) fn handshake(client: &mut TlsClient) -> io::Result<()> {
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    Ok(())
}

/// Sends a line and returns the answer, both without line endings.
#[track_caller]
pub(crate) fn ask(client: &mut TlsClient, line: &str) -> String {
    client.write_all(format!("{line}\n").as_bytes()).unwrap();
    crate::support::clients::line_of(client)
}

/// Says that no output follows, and shuts the write side.
#[track_caller]
pub(crate) fn end_output(client: &mut TlsClient) {
    client.conn.send_close_notify();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut client.sock).unwrap();
    }
    client.sock.0.shutdown(std::net::Shutdown::Write);
}

/// A stream server with TLS.
#[derive(Clone)]
pub(crate) struct WithTls<S>(pub(crate) TlsConfig, pub(crate) S);

/// The one that most tests have.
pub(crate) fn with_tls() -> WithTls<()> {
    WithTls(server_config(), ())
}

impl<S: Settings> StreamSettings for WithTls<S> {
    fn apply<T, M>(&self, builder: Builder<T, M>) -> Builder<T, M>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
        M: Mixin,
    {
        self.1.apply(builder).tls(self.0.clone())
    }
}
