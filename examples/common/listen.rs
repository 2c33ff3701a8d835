//! The flag that says where to listen.

use std::cell::RefCell;
use std::error::Error;

use socketserver::extend::{Mixin, Transport};
use socketserver::transport::{InheritedSocket, Listeners};
use socketserver::{
    Builder, DatagramRequestHandler, Endpoint, Scheme, Server, StreamRequestHandler,
};

use super::usage_error;

/// Where the server's requests come from.
pub(super) enum Listen {
    /// An address to bind to.
    Address(Endpoint),
    /// A socket that the program was started with, until a server has it.
    Inherited(Scheme, RefCell<Option<InheritedSocket>>),
    /// Standard input is the one connection to serve.
    Inetd,
}

impl Listen {
    /// An address; or, never taken for one: `fd:N` (a supervisor's descriptor), `systemd:NAME`
    /// (`FileDescriptorName=` of a socket unit), or `inetd`.
    pub(super) fn parse(text: &str) -> Result<Listen, Box<dyn Error>> {
        let socket = if text == "inetd" {
            return Ok(Listen::Inetd);
        } else if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse().map_err(|_| {
                usage_error(format!("--listen {text}: not the number of a descriptor"))
            })?;
            InheritedSocket::from_descriptor(number)?
        } else if let Some(name) = text.strip_prefix("systemd:") {
            Listeners::from_env()?.take(name)?
        } else {
            return Ok(Listen::Address(text.parse()?));
        };
        Ok(Listen::Inherited(socket.scheme(), RefCell::new(Some(socket))))
    }

    pub(super) fn scheme(&self) -> Option<Scheme> {
        match self {
            Listen::Address(endpoint) if endpoint.is_unix() && endpoint.scheme().is_none() => {
                Some(Scheme::Unix)
            }
            Listen::Address(endpoint) => endpoint.scheme(),
            Listen::Inherited(scheme, _) => Some(*scheme),
            Listen::Inetd => None,
        }
    }

    /// A server of streams.
    pub(super) fn streams<T, M: Mixin>(
        &self,
        builder: Builder<T, M>,
        handler: impl StreamRequestHandler,
    ) -> Result<Server<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>
            + TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        match self {
            Listen::Address(endpoint) => Ok(builder.bind(endpoint.clone(), handler)?),
            _ => Ok(builder.from_listener(self.inherited::<T>()?, handler)?),
        }
    }

    /// A server of datagrams.
    pub(super) fn datagrams<T, M: Mixin>(
        &self,
        builder: Builder<T, M>,
        handler: impl DatagramRequestHandler,
    ) -> Result<Server<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn DatagramRequestHandler>
            + TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        match self {
            Listen::Address(endpoint) => Ok(builder.bind(endpoint.clone(), handler)?),
            _ => Ok(builder.from_socket(self.inherited::<T>()?, handler)?),
        }
    }

    fn inherited<T>(&self) -> Result<T, Box<dyn Error>>
    where
        T: TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        let socket = match self {
            Listen::Inherited(_, socket) => socket.take(),
            _ => None,
        };
        let socket = socket.ok_or_else(|| usage_error("--listen inetd cannot work here".into()))?;
        Ok(socket.try_into()?)
    }
}
