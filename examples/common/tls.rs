//! TLS on the listeners of an example, and to the server behind a gateway.

use std::error::Error;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use signal_hook::consts::SIGHUP;
use socketserver::extend::{Mixin, Transport};
use socketserver::{
    Builder, ClientCertificates, ConnectOptions, Endpoint, ServerHandle, StreamRequestHandler,
    TlsClientConfig, TlsConfig,
};

use super::flags::Values;
use super::signals::SignalCount;
use super::{Options, TLS_FLAGS, usage_error};

/// How soon after a `SIGHUP` the files are read.
const RENEWAL_INTERVAL: Duration = Duration::from_millis(500);

pub(super) struct Tls {
    files: Files,
    renewals: SignalCount,
}

#[derive(Clone)]
struct Files {
    chain: String,
    key: String,
    client_ca: Option<String>,
}

impl Tls {
    pub(super) fn of(values: &Values) -> Result<Option<Tls>, Box<dyn Error>> {
        let [chain, key, client_ca] =
            TLS_FLAGS.map(|flag| values.last(flag.0).map(ToOwned::to_owned));
        let files = match (chain, key, client_ca) {
            (Some(chain), Some(key), client_ca) => Files { chain, key, client_ca },
            (None, None, None) => return Ok(None),
            _ => return Err(usage_error("TLS needs --tls-cert and --tls-key".into())),
        };
        Ok(Some(Tls { files, renewals: SignalCount::of(SIGHUP)? }))
    }

    /// Has the files read now, and again after each `SIGHUP`: by the thread that accepts, because a forking
    /// server has no other, and in each child of a preforking one. `server` is to be set.
    pub(super) fn on<T, M>(
        &self,
        builder: Builder<T, M>,
        server: &Arc<OnceLock<ServerHandle>>,
    ) -> Result<Builder<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>,
        M: Mixin,
    {
        let builder = builder.tls(self.files.read()?);
        let (files, renewals, server) = (self.files.clone(), self.renewals.clone(), server.clone());
        let mut renewed = renewals.total();
        let renew = move || {
            let asked = renewals.total();
            if let Some(server) = server.get()
                && std::mem::replace(&mut renewed, asked) != asked
            {
                renew(server, &files);
            }
        };
        Ok(builder.service_actions(RENEWAL_INTERVAL, renew))
    }
}

fn renew(server: &ServerHandle, files: &Files) {
    match files.read().and_then(|tls| server.set_tls(tls)) {
        Ok(()) => {
            log::info!("{}: the certificate in {} is used now", server.local_addr(), files.chain)
        }
        Err(error) => log::error!("the old certificate is used on: {error}"),
    }
}

impl Files {
    fn read(&self) -> socketserver::Result<TlsConfig> {
        let tls = TlsConfig::from_pem(&self.chain, &self.key)?;
        match &self.client_ca {
            Some(roots) => tls.client_certificates(ClientCertificates::Required, roots),
            None => Ok(tls),
        }
    }
}

/// TLS to another server.
pub(crate) struct UpstreamTls(TlsClientConfig);

impl UpstreamTls {
    pub(crate) fn on(&self, how: ConnectOptions) -> ConnectOptions {
        how.tls(&self.0)
    }
}

impl Options {
    /// By flags of the example's own: `flag` has the name that the server's certificate must have, if that is
    /// not its host's, and `roots` a file with those that may have signed it.
    pub(crate) fn upstream_tls(
        &self,
        flag: &str,
        roots: &str,
        upstream: &Endpoint,
    ) -> Result<Option<UpstreamTls>, Box<dyn Error>> {
        let Some(name) = self.value(flag) else { return Ok(None) };
        let roots = match self.value(roots) {
            Some(file) => Path::new(file),
            None => system_roots()
                .ok_or_else(|| usage_error(format!("--{roots} is missing: the system has none")))?,
        };
        let tls = TlsClientConfig::from_pem(roots)?;
        match name {
            "" if upstream.is_unix() => {
                Err(usage_error(format!("--{flag}: a Unix socket has no name, give one")))
            }
            "" => Ok(Some(UpstreamTls(tls))),
            name => Ok(Some(UpstreamTls(tls.server_name(name)?))),
        }
    }
}

/// The certificates that the system trusts, where its distribution has them.
fn system_roots() -> Option<&'static Path> {
    let files = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    files.into_iter().map(Path::new).find(|file| file.exists())
}
