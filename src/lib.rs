//! A synchronous server framework after CPython's `socketserver`: write the handler as plain
//! blocking code, and choose the rest in three words.
//!
//! ```no_run
//! use std::io::Write;
//! use socketserver::{Connection, HandlerResult, StreamRequestHandler, ThreadingTcpServer};
//!
//! struct Hello;
//!
//! impl StreamRequestHandler for Hello {
//!     fn handle(&self, connection: &mut Connection) -> HandlerResult {
//!         connection.write_all(b"Hello World!\n")?;
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> socketserver::Result<()> {
//!     ThreadingTcpServer::bind("127.0.0.1:2525", Hello)?.serve_forever()
//! }
//! ```
//!
//! # The three choices
//!
//! A [`Server`] is three independent choices: a [`Transport`](transport::Transport) and a
//! [`Mixin`], which make its name, and a handler.
//!
//! ```text
//!  where requests come from          who runs them              what answers
//!
//!  Tcp ---------.               .--- Sequential ---.        .-- StreamRequestHandler
//!  UnixStream --+-- Server of --+--- Threading ----+-- for -+
//!  Udp ---------+               +--- Forking ------+        '-- DatagramRequestHandler
//!  UnixDatagram '               '--- Fibers -------'
//! ```
//!
//! | | one request at a time | a thread for each |
//! | --- | --- | --- |
//! | TCP | [`TcpServer`] | [`ThreadingTcpServer`] |
//! | UDP | [`UdpServer`] | [`ThreadingUdpServer`] |
//! | Unix stream | [`UnixStreamServer`] | [`ThreadingUnixStreamServer`] |
//! | Unix datagram | [`UnixDatagramServer`] | [`ThreadingUnixDatagramServer`] |
//!
//! | | a process for each | a fiber for each |
//! | --- | --- | --- |
//! | TCP | [`ForkingTcpServer`] | [`FiberTcpServer`] |
//! | UDP | [`ForkingUdpServer`] | [`FiberUdpServer`] |
//! | Unix stream | [`ForkingUnixStreamServer`] | [`FiberUnixStreamServer`] |
//! | Unix datagram | [`ForkingUnixDatagramServer`] | [`FiberUnixDatagramServer`] |
//!
//! [`Threading`] is for most; [`Sequential`] for short requests, and for handlers that must not run
//! twice at a time; [`Forking`] for handlers that may crash or leak and need no memory in common;
//! [`Fibers`] for thousands of connections, and for handlers that wait for nothing but their client.
//! One handler, and one [`Connection`] type, serves TCP and Unix sockets under each of them. A
//! program that chooses by a flag uses `Box<dyn Mixin>` ([`Mixin`] has an example); a socket or a
//! thread pool of one's own is an `impl` of [`Transport`](transport::Transport) or [`Mixin`].
//!
//! # Handlers
//!
//! A [`StreamRequestHandler`] is given a [`Connection`]: [`BufRead`](std::io::BufRead) and
//! [`Write`](std::io::Write) in one, with the [address of its peer](Connection::peer_addr) and [the
//! server](Connection::server) it came in through. What a handler writes is sent when it next has
//! to wait for its client, and at the end, so there is nothing to flush. Lines are bounded
//! ([`Connection::read_line`]), and so are the binary messages of [`framing`].
//!
//! `handle` is the one required method. Before it come `verify_request` and `setup`, after it
//! `finish`, which runs whenever `setup` succeeded; `handle_error` is told of every error and
//! panic, either of which ends this connection and no other. A client that [disconnects](Error::is_disconnect)
//! is a normal end. [`Connection::close_reason`] tells `finish` why the connection ends. Closures
//! are handlers too ([`handler_fn`]).
//!
//! The same handler serves all connections, many at a time, and so takes `&self`:
//!
//! ```
//! use std::io::{BufRead, BufReader, Write};
//! use std::net::TcpStream;
//! use std::sync::atomic::{AtomicU64, Ordering};
//! use socketserver::{Connection, HandlerResult, StreamRequestHandler, ThreadingTcpServer};
//!
//! /// Numbers the lines of all clients.
//! #[derive(Default)]
//! struct Counter {
//!     lines: AtomicU64,
//! }
//!
//! impl StreamRequestHandler for Counter {
//!     fn handle(&self, connection: &mut Connection) -> HandlerResult {
//!         let mut line = String::new();
//!         while connection.read_line(&mut line)? > 0 {
//!             let number = 1 + self.lines.fetch_add(1, Ordering::Relaxed);
//!             write!(connection, "{number}: {line}")?;
//!             line.clear();
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ThreadingTcpServer::bind("127.0.0.1:0", Counter::default())?.spawn()?;
//! let address = server.local_addr().socket_addr().ok_or("not TCP")?;
//!
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"hello\n")?;
//! let mut answer = String::new();
//! BufReader::new(client).read_line(&mut answer)?;
//! assert_eq!(answer, "1: hello\n");
//! # Ok(())
//! # }
//! ```
//!
//! A handler is tested without a socket, on a connection [in memory](Connection::in_memory):
//!
//! ```
//! use socketserver::{Connection, StreamRequestHandler, services::Echo};
//!
//! let mut connection = Connection::in_memory("first\nlast, without an end");
//! StreamRequestHandler::handle(&Echo, connection.as_mut()).unwrap();
//! assert_eq!(connection.output(), b"first\nlast, without an end");
//! ```
//!
//! A [`Broadcast`] sends one message to many connections, in the same order to all, and waits for
//! none of them.
//!
//! # Datagrams
//!
//! A [`DatagramRequestHandler`] is given a [`DatagramRequest`] for each datagram:
//! [`data`](DatagramRequest::data), whole, and [`peer_addr`](DatagramRequest::peer_addr). What is
//! written to it is sent as one reply when the handler returns without an error;
//! [`reply`](DatagramRequest::reply) sends one at once. A datagram longer than
//! [`max_packet_size`](Builder::max_packet_size) is not passed on cut short, but reported to
//! `handle_error`.
//!
//! ```
//! use std::net::UdpSocket;
//! use socketserver::{ThreadingUdpServer, datagram_handler_fn};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let upper = datagram_handler_fn(|request| {
//!     Ok(request.reply(request.data().to_ascii_uppercase())?)
//! });
//! let server = ThreadingUdpServer::bind("127.0.0.1:0", upper)?.spawn()?;
//! let address = server.local_addr().socket_addr().ok_or("not UDP")?;
//!
//! let client = UdpSocket::bind("127.0.0.1:0")?;
//! client.send_to(b"ping", address)?;
//! let mut answer = [0; 16];
//! let length = client.recv(&mut answer)?;
//! assert_eq!(&answer[..length], b"PING");
//! # Ok(())
//! # }
//! ```
//!
//! # The way of a request
//!
//! The mixin drives: it asks for a request, and sees to it that the request is finished, on
//! whichever thread or in whichever process it likes. Everything that must hold for each request is
//! in those two steps.
//!
//! ```text
//! BaseServer::next_request   wait            for the listener, a stop, or room        base.rs
//!                            accept          a Transport takes it                     transport/
//!                                            which errors retry, which wait           accept.rs
//!                            admission       verify_request, limits, overload policy  admission.rs
//!                            registry        who is here: its place is taken          registry.rs
//!
//! Request::finish            setup           the handler's three methods;             run.rs
//!                            handle          errors and panics go to handle_error
//!                            finish
//!                            lingering close what was written is sent, and unread     connection/
//!                                            input drained, so that it arrives
//!                            registry        its place is free again                  registry.rs
//!
//! Sequential   loop { next_request; finish }
//! Threading    loop { next_request; hand it to a waiting thread, or to a new one: finish }
//! Forking      loop { next_request; fork; in the child: finish, _exit }
//! Fibers       a few threads, each: loop { wait for any of its connections, or a newcomer;
//!              go on with the handlers of those that are ready, each on a stack of its own }
//! ```
//!
//! No error of a connection ends the loop, and no want of descriptors, threads or memory for
//! another one: the newcomer waits or is turned away, the loop sleeps until somebody leaves (or for
//! a time that doubles from 5 ms to 80 ms), and goes on. What went wrong is logged through the
//! [`log`] crate, and counted in [`Stats`].
//!
//! # Embedding and stopping
//!
//! [`serve_forever`](Server::serve_forever) takes the thread that it is called on.
//! [`spawn`](Server::spawn) takes one of its own, and returns a [`RunningServer`], which stops the
//! server when it is dropped. [`handle_request`](Server::handle_request) serves one request, for a
//! program with a loop of its own.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use std::time::Duration;
//! use socketserver::{ThreadingTcpServer, services::Echo};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?; // listening already
//! let address = server.local_addr().socket_addr().ok_or("not TCP")?;
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"received before the stop\n")?;
//!
//! let report = server.stop(Duration::from_secs(5));
//! assert!(report.is_clean());
//!
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert_eq!(answer, "received before the stop\n");
//! # Ok(())
//! # }
//! ```
//!
//! A stop serves what the kernel has already accepted, closes the listener, and shuts the read side
//! of each connection: a handler that waits for its client reads end-of-file behind all that was
//! received, ends by itself, and its answers are delivered. Just before the deadline both sides are
//! shut. The [`StopReport`] says how many ended by themselves, how many were cut off, and which
//! handlers were busy with something else even then. [`suspend`](ServerHandle::suspend) only leaves
//! newcomers in the backlog, until [`resume`](ServerHandle::resume).
//!
//! A [`ServerHandle`] asks for a stop from anywhere: [`shutdown`](ServerHandle::shutdown) returns
//! at once, and may be called before, during and after serving, from a handler too;
//! [`stop`](ServerHandle::stop) waits. [`shutdown_pipe`](ServerHandle::shutdown_pipe) is for
//! signals.
//!
//! # Limits
//!
//! [`Builder`] has every setting, with its default. Those that a client can run into:
//!
//! | limit | default | beyond it |
//! | --- | --- | --- |
//! | [`max_connections`] | descriptors, less some | the [`Overload`] policy |
//! | [`max_connections_per_peer`], [`connection_rate`] | none | refused |
//! | [`access`] | everybody | denied |
//! | [`Threading::max_threads`], [`Forking::max_children`] | none; 40 | left in the backlog |
//! | [`Fibers::max_fibers`] | none | left in the backlog |
//! | [`backlog`] | 1024 | the system turns newcomers away |
//! | [`max_line_length`] | 64 KiB | [`Error::LineTooLong`] |
//! | [`LengthPrefixed::max_length`] | 64 KiB | [`Error::MessageTooLong`] |
//! | [`max_packet_size`] | 65,535 bytes | [`Error::Truncated`] |
//! | [`idle_timeout`] | none | [`Error::IdleTimeout`] |
//! | [`read_timeout`] | none | [`Error::ReadTimeout`] |
//! | [`message_timeout`] | none | [`Error::MessageTimeout`] |
//! | [`min_rate`] | none | [`Error::TooSlow`] |
//! | [`write_timeout`] | 30 s | [`Error::WriteTimeout`] |
//! | [`keepalive`] | about two minutes without a sign of life | the connection is reset |
//! | [`user_timeout`] | two minutes without an answer to what was sent | the connection is reset |
//! | [`Broadcast::with_capacity`] | 4 MiB behind | the member is disconnected |
//! | [`stop_timeout`] | 30 s | connections are cut off |
//!
//! [`max_connections`]: Builder::max_connections
//! [`max_connections_per_peer`]: Builder::max_connections_per_peer
//! [`connection_rate`]: Builder::connection_rate
//! [`access`]: Builder::access
//! [`backlog`]: Builder::backlog
//! [`max_line_length`]: Builder::max_line_length
//! [`max_packet_size`]: Builder::max_packet_size
//! [`idle_timeout`]: Builder::idle_timeout
//! [`read_timeout`]: Builder::read_timeout
//! [`message_timeout`]: Builder::message_timeout
//! [`min_rate`]: Builder::min_rate
//! [`write_timeout`]: Builder::write_timeout
//! [`keepalive`]: Builder::keepalive
//! [`user_timeout`]: Builder::user_timeout
//! [`stop_timeout`]: Builder::stop_timeout
//! [`LengthPrefixed::max_length`]: framing::LengthPrefixed::max_length
//!
//! # Forking
//!
//! A forking server takes over its process:
//!
//! - It has no [`spawn`](Server::spawn), and refuses to fork beside other threads
//!   ([`Error::OtherThreads`]): a child would inherit whatever they have locked at that moment, and
//!   nobody to unlock it. [`ForkDespiteThreads`] is the `unsafe` way round.
//! - A child has a copy of the handler. What it changes ends with it; nothing is shared between
//!   connections, so there is no [`Broadcast`] among them. [`ServerHandle::shutdown`] reaches the
//!   parent, and [`Stats`] and [`ServerHandle::is_stopping`] are shared; the rest of a child's
//!   [`ServerHandle`] knows and changes nothing outside it.
//! - A child leaves by `_exit`: no destructors of the program run in it, and what it printed
//!   without a newline is lost unless it is flushed.
//! - Should the parent die, its children end gracefully. Those that ignore a stop are sent
//!   `SIGTERM` at its deadline, then `SIGKILL`, and are named in the [`StopReport`].
//! - The parent reaps its own children only, as soon as they end. It needs no `SIGCHLD` handler,
//!   and takes no child of the program's away from it.
//!
//! # Fibers
//!
//! What a handler may not do on a fiber is with [`Fibers`]: block other than by its connection, hold
//! a lock across a read or a write, go deep.
//!
//! # Cargo features
//!
//! - `fibers`, on by default: the mixin [`Fibers`].
//! - `redis`: `services::Redis`, by which a [`Chat`](services::Chat) is one room on many servers.
//!
//! # Platforms
//!
//! Linux 5.4 or newer; the crate does not build on other systems yet. Fibers are for x86, x86_64,
//! ARM, AArch64, RISC-V and LoongArch; elsewhere the feature has to be off.

mod accept;
mod address;
mod broadcast;
mod close_reason;
mod config;
mod connection;
mod datagram;
mod error;
pub mod framing;
mod handler;
mod id;
mod mixin;
mod net;
mod request;
mod server;
pub mod services;
mod state;
mod sync;
mod sys;
pub mod transport;

pub use ipnet;

pub use accept::{BaseServer, NextRequest};
pub use address::{Address, Endpoint, Scheme, UnixName};
pub use broadcast::{Broadcast, Member};
pub use close_reason::CloseReason;
pub use config::{Access, ConnectionRate, Keepalive, MinRate, Overload, Peers};
pub use connection::{Connection, InMemoryConnection, Line};
pub use datagram::{DatagramRequest, InMemoryDatagram};
pub use error::{Error, Result};
pub use handler::{
    DatagramRequestHandler, HandlerError, HandlerResult, StreamRequestHandler, datagram_handler_fn,
    handler_fn,
};
pub use id::{ConnectionId, MemberId};
#[cfg(feature = "fibers")]
pub use mixin::Fibers;
pub use mixin::{ForkDespiteThreads, Forking, Mixin, Sequential, Spawnable, Threading};
pub use net::{Interest, Wait};
pub use request::{IntoHandler, Request, RequestHandler};
pub use server::Builder;
#[cfg(feature = "fibers")]
pub use server::{FiberTcpServer, FiberUdpServer, FiberUnixDatagramServer, FiberUnixStreamServer};
pub use server::{
    ForkingTcpServer, ForkingUdpServer, ForkingUnixDatagramServer, ForkingUnixStreamServer,
    Handled, Server, TcpServer, ThreadingTcpServer, ThreadingUdpServer,
    ThreadingUnixDatagramServer, ThreadingUnixStreamServer, UdpServer, UnixDatagramServer,
    UnixStreamServer,
};
pub use state::{ConnectionInfo, RunningServer, ServerHandle, Stats, StopReport};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;
