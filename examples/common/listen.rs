//! The flags that say where to listen.

use std::cell::RefCell;
use std::error::Error;

use socketserver::extend::{Mixin, Transport};
use socketserver::transport::{InheritedSocket, Listeners, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Builder, DatagramRequestHandler, Endpoint, Scheme, Server, StreamRequestHandler,
};

use super::hand_over::{Restart, predecessor};
use super::usage_error;

/// Where the server's requests come from: `--listen`, and each `--also`.
pub(super) struct Listen {
    first: Place,
    also: Vec<Place>,
}

enum Place {
    /// An address to bind to.
    Address(Endpoint),
    /// A socket that the program was started with, until a server has it.
    Inherited(Scheme, RefCell<Option<InheritedSocket>>),
    /// The same, which the predecessor has.
    OfPredecessor(Scheme),
    /// Standard input is the one connection to serve.
    Inetd,
}

impl Listen {
    pub(super) fn parse<'a>(
        first: &str,
        also: impl Iterator<Item = &'a str>,
    ) -> Result<Listen, Box<dyn Error>> {
        let mut passed = None;
        let first = Place::parse(first, "listen", &mut passed)?;
        let also = also.map(|text| Place::parse(text, "also", &mut passed));
        Ok(Listen { first, also: also.collect::<Result<_, _>>()? })
    }

    /// Whether standard input is the one connection to serve.
    pub(super) fn is_inetd(&self) -> bool {
        matches!(self.first, Place::Inetd)
    }

    pub(super) fn scheme(&self) -> Option<Scheme> {
        match &self.first {
            Place::Address(endpoint) if endpoint.is_unix() && endpoint.scheme().is_none() => {
                Some(Scheme::Unix)
            }
            Place::Address(endpoint) => endpoint.scheme(),
            Place::Inherited(scheme, _) | Place::OfPredecessor(scheme) => Some(*scheme),
            Place::Inetd => None,
        }
    }

    /// A server of streams.
    pub(super) fn streams<T, M: Mixin>(
        &self,
        mut builder: Builder<T, M>,
        handler: impl StreamRequestHandler,
    ) -> Result<Server<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn StreamRequestHandler>
            + TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        builder = Restart::taking_over(builder);
        for place in &self.also {
            builder = match place {
                Place::Address(endpoint) => builder.also(endpoint.clone()),
                Place::OfPredecessor(_) => builder,
                Place::Inherited(Scheme::Unix, _) => {
                    builder.also_transport(place.inherited::<UnixStream>()?)
                }
                _ => builder.also_transport(place.inherited::<Tcp>()?),
            }
        }
        match &self.first {
            Place::Address(endpoint) => Ok(builder.bind(endpoint.clone(), handler)?),
            Place::OfPredecessor(_) => Ok(builder.from_predecessor(handler)?),
            place => Ok(builder.from_listener(place.inherited::<T>()?, handler)?),
        }
    }

    /// A server of datagrams.
    pub(super) fn datagrams<T, M: Mixin>(
        &self,
        mut builder: Builder<T, M>,
        handler: impl DatagramRequestHandler,
    ) -> Result<Server<T, M>, Box<dyn Error>>
    where
        T: Transport<Handler = dyn DatagramRequestHandler>
            + TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        builder = Restart::taking_over(builder);
        for place in &self.also {
            builder = match place {
                Place::Address(endpoint) => builder.also(endpoint.clone()),
                Place::OfPredecessor(_) => builder,
                Place::Inherited(Scheme::UnixDatagram, _) => {
                    builder.also_transport(place.inherited::<UnixDatagram>()?)
                }
                _ => builder.also_transport(place.inherited::<Udp>()?),
            }
        }
        match &self.first {
            Place::Address(endpoint) => Ok(builder.bind(endpoint.clone(), handler)?),
            Place::OfPredecessor(_) => Ok(builder.from_predecessor(handler)?),
            place => Ok(builder.from_socket(place.inherited::<T>()?, handler)?),
        }
    }
}

impl Place {
    /// An address; or, never taken for one: `fd:N` (a supervisor's descriptor), `systemd:NAME`
    /// (`FileDescriptorName=` of a socket unit), or `inetd`. `passed` are the sockets of a service
    /// manager, once they were taken from the environment.
    fn parse(
        text: &str,
        flag: &str,
        passed: &mut Option<Listeners>,
    ) -> Result<Place, Box<dyn Error>> {
        let socket = if text == "inetd" {
            return Ok(Place::Inetd);
        } else if let Some((scheme, _)) = predecessor()
            && (text.starts_with("fd:") || text.starts_with("systemd:"))
        {
            return Ok(Place::OfPredecessor(scheme));
        } else if let Some(number) = text.strip_prefix("fd:") {
            let number = number.parse().map_err(|_| {
                usage_error(format!("--{flag} {text}: not the number of a descriptor"))
            })?;
            InheritedSocket::from_descriptor(number)?
        } else if let Some(name) = text.strip_prefix("systemd:") {
            let passed = match passed {
                Some(passed) => passed,
                None => passed.insert(Listeners::from_env()?),
            };
            passed.take(name)?
        } else {
            return Ok(Place::Address(text.parse()?));
        };
        Ok(Place::Inherited(socket.scheme(), RefCell::new(Some(socket))))
    }

    fn inherited<T>(&self) -> Result<T, Box<dyn Error>>
    where
        T: TryFrom<InheritedSocket, Error = socketserver::Error>,
    {
        let socket = match self {
            Place::Inherited(_, socket) => socket.take(),
            _ => None,
        };
        let cannot = || usage_error("inetd, one connection, cannot be served here".into());
        Ok(socket.ok_or_else(cannot)?.try_into()?)
    }
}
