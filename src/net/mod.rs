//! Streams: the interface of a connected socket ([`Stream`]), how a connection waits for it
//! ([`Wait`]), and the stream that a connection, the registry and a broadcast share
//! ([`SharedStream`]), and the messages that wait to be written to one ([`outbox`]).

mod descriptors;
pub(crate) mod outbox;
mod peer_credentials;
mod shared_stream;
mod stream;
mod tcp_options;
mod traffic;
mod write_progress;

pub use peer_credentials::PeerCredentials;
pub(crate) use shared_stream::{IoTimeout, Sent, SharedStream};
pub(crate) use stream::poll_any;
pub use stream::{Interest, SocketStream, Stream, Wait, WaitSource};
pub(crate) use tcp_options::set_tcp_options;
pub(crate) use traffic::Traffic;
pub(crate) use write_progress::{WriteLimit, WriteProgress, WriteTotal};
