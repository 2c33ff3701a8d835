//! For programs that bring a part of a server themselves: a transport, a mixin, a stream, a chat's
//! backplane.
//!
//! The rest of the crate is for those who write handlers. What is here is closer to how a server
//! works, and may change in any version whose number says that something has changed (0.x, then x).
//!
//! | to bring | implement | an example |
//! | --- | --- | --- |
//! | who runs a request: a thread pool of your own | [`Mixin`], and [`Spawnable`] if it can run beside other threads | [`Mixin`] |
//! | where requests come from: another kind of socket | [`Transport`] | [`Transport`] |
//! | the bytes of a connection: a stream that wraps another | [`Stream`] | |
//! | how a connection waits | [`Wait`], given to [`Request::wait_with`] | |
//! | the socket that datagrams are answered by | [`DatagramSocket`] | |
//! | how a chat's lines reach other servers | [`Backplane`] | [`Backplane`] |

pub use crate::accept::{BaseServer, NextRequest};
pub use crate::config::TransportOptions;
pub use crate::datagram::DatagramSocket;
pub use crate::mixin::{Mixin, Spawnable};
pub use crate::net::{Interest, SocketStream, Stream, Wait, WaitSource};
pub use crate::request::{IncomingDatagram, IncomingStream, Request, RequestHandler};
pub use crate::services::chat::{Backplane, Kind, LocalMembers, Message};
pub use crate::transport::Transport;
