//! Certificates and keys from files, and the choice among several by SNI.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::provider;
use crate::error::{Error, Result};

/// A certificate with its chain and private key.
pub(super) fn read_certificate(chain: &Path, key: &Path) -> Result<Arc<CertifiedKey>> {
    let certificates = read_chain(chain)?;
    let private_key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => bad(key, "it has no private key in PEM"),
        error => bad(key, error),
    })?;
    let certified = CertifiedKey::from_der(certificates, private_key, &provider());
    Ok(Arc::new(certified.map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            bad(key, format_args!("it is not the key of the certificate in {}", chain.display()))
        }
        rustls::Error::InvalidCertificate(error) => bad(chain, format_args!("{error:?}")),
        error => bad(key, error),
    })?))
}

/// Certificates that are trusted to have signed others.
pub(super) fn read_roots(file: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain(file)? {
        roots.add(certificate).map_err(|error| bad(file, error))?;
    }
    Ok(Arc::new(roots))
}

fn read_chain(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(file)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let certificates = certificates.map_err(|error| bad(file, error))?;
    match certificates.is_empty() {
        true => Err(bad(file, "it has no certificate in PEM")),
        false => Ok(certificates),
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).map_err(|error| bad(file, error))
}

pub(super) fn bad(file: &Path, reason: impl Display) -> Error {
    Error::TlsFile { file: file.to_owned(), reason: reason.to_string() }
}

/// Several certificates: the first that has the name which the client asks for, and a key that it can
/// check.
pub(super) struct CertificatesByName {
    pub(super) certificates: Vec<Arc<CertifiedKey>>,
    /// For a client that asks for no name, or another one.
    pub(super) otherwise: Arc<dyn ResolvesServerCert>,
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let found = name.and_then(|name| {
            let mut certificates = self.certificates.iter();
            certificates.find(|certificate| {
                is_for(certificate, &name)
                    && certificate.key.choose_scheme(hello.signature_schemes()).is_some()
            })
        });
        found.cloned().or_else(|| self.otherwise.resolve(hello))
    }
}

fn is_for(certificate: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = certificate.end_entity_cert().and_then(ParsedCertificate::try_from);
    parsed.is_ok_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

impl fmt::Debug for CertificatesByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificatesByName({})", self.certificates.len())
    }
}
