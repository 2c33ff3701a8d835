//! Streams: the interface of a connected socket ([`Stream`]), how a connection waits for it
//! ([`Wait`]), and the stream that a connection, the registry and a broadcast share
//! ([`SharedStream`]).

mod shared_stream;
mod stream;
mod write_progress;

pub(crate) use shared_stream::{IoTimeout, Sent, SharedStream};
pub use stream::{Interest, SocketStream, Stream, Wait};
pub(crate) use write_progress::{WriteProgress, WriteTotal};
