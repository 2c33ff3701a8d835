//! tour
mod accept;
mod address;
mod admission;
mod base;
mod broadcast;
mod builder;
mod connection;
mod control;
mod datagram;
mod error;
pub mod framing;
mod handle;
mod handler;
mod mixin;
mod registry;
mod request;
mod run;
mod server;
pub mod services;
mod settings;
mod stats;
mod stream;
mod sys;
pub mod transport;

pub use address::{Address, Endpoint, Scheme, UnixName};
pub use base::{BaseServer, Next};
pub use broadcast::{Broadcast, Member};
pub use builder::Builder;
pub use connection::{Connection, InMemoryConnection, Line};
pub use control::StopReport;
pub use datagram::{DatagramRequest, InMemoryDatagram};
pub use error::{Error, Result};
pub use handle::{RunningServer, ServerHandle};
pub use handler::{
    DatagramRequestHandler, HandlerError, HandlerResult, StreamRequestHandler, datagram_handler_fn,
    handler_fn, is_hang_up,
};
pub use mixin::{ForkDespiteThreads, Forking, Mixin, Sequential, Spawnable, Threading};
pub use registry::ConnectionInfo;
pub use request::{IntoHandler, Request, RequestHandler};
pub use run::Outcome;
pub use server::{
    ForkingTcpServer, ForkingUdpServer, ForkingUnixDatagramServer, ForkingUnixStreamServer,
    Handled, Server, TcpServer, ThreadingTcpServer, ThreadingUdpServer,
    ThreadingUnixDatagramServer, ThreadingUnixStreamServer, UdpServer, UnixDatagramServer,
    UnixStreamServer,
};
pub use settings::{Keepalive, Overload};
pub use stats::Stats;
