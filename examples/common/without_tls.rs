//! What stands for `tls.rs` in a program that was built without cargo's feature `tls`: its flags are errors.

use std::error::Error;
use std::sync::{Arc, OnceLock};

use socketserver::{Builder, ConnectOptions, Endpoint, ServerHandle};

use super::flags::Values;
use super::{Options, TLS_FLAGS, usage_error};

/// There is none.
pub(super) enum Tls {}

impl Tls {
    pub(super) fn of(values: &Values) -> Result<Option<Tls>, Box<dyn Error>> {
        match TLS_FLAGS.iter().find(|flag| values.last(flag.0).is_some()) {
            Some(flag) => Err(not_built(flag.0)),
            None => Ok(None),
        }
    }

    pub(super) fn on<T, M>(
        &self,
        _builder: Builder<T, M>,
        _server: &Arc<OnceLock<ServerHandle>>,
    ) -> Result<Builder<T, M>, Box<dyn Error>> {
        match *self {}
    }
}

/// There is none.
pub(crate) enum UpstreamTls {}

impl UpstreamTls {
    pub(crate) fn on(&self, _how: ConnectOptions) -> ConnectOptions {
        match *self {}
    }
}

impl Options {
    pub(crate) fn upstream_tls(
        &self,
        flag: &str,
        _roots: &str,
        _upstream: &Endpoint,
    ) -> Result<Option<UpstreamTls>, Box<dyn Error>> {
        match self.value(flag) {
            Some(_) => Err(not_built(flag)),
            None => Ok(None),
        }
    }
}

fn not_built(flag: &str) -> Box<dyn Error> {
    usage_error(format!("--{flag}: this program was built without TLS (cargo's feature tls)"))
}
