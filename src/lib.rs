//! A blocking server framework after CPython's `socketserver`: write the handler as plain code, and
//! choose where requests come from and who runs them.
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
//! A [`Server`] is a transport and a mixin, which make its name, and a handler.
//!
//! ```text
//!  where requests come from          who runs them              what answers
//!
//!  Tcp ---------.               .--- Sequential ---.        .-- StreamRequestHandler
//!  UnixStream --+-- Server of --+--- Threading ----+-- for -+
//!  Udp ---------+               +--- Forking ------+        '-- DatagramRequestHandler
//!  UnixDatagram '               +--- Fibers -------+
//!                               '--- Prefork ------'
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
//! - [`Threading`] is for most servers.
//! - [`Sequential`] is for short requests, and for handlers that must not run twice at a time.
//! - [`Forking`] is for handlers that may crash or leak, and share no memory.
//! - [`Fibers`] are for thousands of connections, and for handlers that wait for nothing but
//!   connections and each other.
//! - [`Prefork`] runs one of the others but `Forking` in several processes at the same time, which a
//!   parent replaces when they crash.
//!
//! One handler, and one [`Connection`] type, serves TCP and Unix sockets under each of them. A
//! program that chooses the mixin by a flag uses a `Box<dyn Mixin>` ([`Builder::new`] has an
//! example). A transport or a mixin of your own implements a trait of [`extend`].
//!
//! # Handlers
//!
//! A [`StreamRequestHandler`] is given a [`Connection`]: [`BufRead`](std::io::BufRead) and
//! [`Write`](std::io::Write) in one, with the [address of its client](Connection::peer_addr) and
//! [the server](Connection::server) that accepted it. What a handler writes is sent when it next has
//! to wait for its client, and at the end: there is nothing to flush. Lines are bounded
//! ([`Connection::read_line`]), and so are the binary messages of [`framing`].
//!
//! `handle` is the one required method. `verify_request` and `setup` are called before it, `finish`
//! after it whenever `setup` succeeded. `handle_error` is given every error and panic, either of
//! which ends this connection and no other. A client that [disconnects](Error::is_disconnect) is no
//! error. [`Connection::close_reason`] tells `finish` why the connection ends. Closures are handlers
//! too ([`handler_fn`]).
//!
//! One handler serves all connections, many at a time, and so its methods take `&self`:
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
//! A unit test of a handler needs no socket: [`Connection::in_memory`]. A [`Broadcast`] sends one
//! message to many connections, in the same order to all, without waiting for any of them; a
//! [`Sender`] sends to one, from any thread. [`Connection::split`] is for two threads of which one
//! reads and the other writes.
//!
//! # Other servers
//!
//! A handler [connects](Connection::connect) to other servers. Such an upstream is a [`Connection`]
//! too, and belongs to the request: its reads and writes have the same limits and timeouts, under
//! [`Fibers`] they suspend the fiber, and it is closed with the request. [`Connection::relay`]
//! carries bytes both ways, which makes a gateway:
//!
//! ```no_run
//! use std::time::Duration;
//! use socketserver::{FiberTcpServer, handler_fn};
//!
//! let gateway = handler_fn(|client| {
//!     let mut upstream = client.connect("10.0.0.5:6379", Duration::from_secs(3))?;
//!     client.relay(&mut upstream)?;
//!     Ok(())
//! });
//! FiberTcpServer::bind("127.0.0.1:6380", gateway)?.serve_forever()?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! What handlers share is in [`sync`]. A stop leaves upstreams and waits of a handler alone while it answers
//! what was received. When it is nearly out of time, each of them ends by an error, [`Error::Stopped`].
//!
#![cfg_attr(feature = "tls", doc = include_str!("tls/tour.md"))]
//! # Behind a proxy
//!
//! A proxy that speaks the [PROXY protocol](proxy_protocol), such as HAProxy, nginx or a cloud's load
//! balancer, says whose connection it passes on. [`Builder::proxy_protocol`] names the proxies that are
//! believed: each of their connections has to begin with a header.
//! [`Connection::peer_addr`], the access list and the limits per peer are then of the client.
//!
//! ```
//! use std::net::IpAddr;
//! use socketserver::{Access, ProxyProtocol, ThreadingTcpServer, services::Echo};
//!
//! let proxies = Access::closed().allow(IpAddr::from([10, 0, 0, 2]));
//! let server = ThreadingTcpServer::builder()
//!     .proxy_protocol(ProxyProtocol::from(proxies))
//!     .bind("127.0.0.1:0", Echo)?;
//! # Ok::<(), socketserver::Error>(())
//! ```
//!
//! [`ConnectOptions::proxy_header`] is the other side, for a handler that is such a proxy.
//!
//! # Datagrams
//!
//! A [`DatagramRequestHandler`] is given a [`DatagramRequest`] for each datagram:
//! [`data`](DatagramRequest::data), whole, and [`peer_addr`](DatagramRequest::peer_addr). What is
//! written to it is sent as one reply when the handler returns without an error;
//! [`reply`](DatagramRequest::reply) sends one at once. A datagram longer than
//! [`max_packet_size`](Builder::max_packet_size) is never passed on truncated, but reported to
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
//! # Embedding and stopping
//!
//! [`serve_forever`](Server::serve_forever) serves on the calling thread. [`spawn`](Server::spawn)
//! starts a thread and returns a [`RunningServer`], which stops the server when it is dropped.
//! [`handle_request`](Server::handle_request) serves one request, for a program with a loop of its
//! own.
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
//! A stop serves what is in the backlog, closes the listeners, and shuts the read side of each
//! connection: a handler that waits for its client reads EOF behind all that was received, ends by
//! itself, and its answers are delivered. Near the end of the timeout both sides are shut. The
//! [`StopReport`] says how many requests ended by themselves, how many connections were shut down,
//! and which handlers were busy with something else even then.
//! [`suspend`](ServerHandle::suspend) leaves new connections in the backlog until
//! [`resume`](ServerHandle::resume).
//!
//! A [`ServerHandle`] asks for a stop from any thread: [`shutdown`](ServerHandle::shutdown) returns
//! at once, and may be called before, during and after serving, from a handler too;
//! [`stop`](ServerHandle::stop) waits. [`shutdown_pipe`](ServerHandle::shutdown_pipe) is for
//! signals.
//!
//! # Several listeners
//!
//! A server listens on more than one address with [`Builder::also`], TCP beside Unix sockets for
//! instance, and on all addresses of a host name. [`ServerHandle::listen`] and
//! [`close_listener`](ServerHandle::close_listener) add and close listeners while it serves. Limits and
//! the stop are those of the server. [`Connection::listener`] says which one a client has come by.
//!
//! Sockets that a service manager has opened, such as systemd, are taken by
//! [`transport::Listeners`]; a connection that a super-server has accepted is served by
//! [`Builder::serve_connection`].
//!
//! # Unix sockets
//!
//! [`Builder::socket_mode`], [`socket_owner`](Builder::socket_owner) and
//! [`socket_group`](Builder::socket_group) decide who may connect to the file of a Unix socket, before it
//! listens. [`Connection::peer_credentials`] says which process is at the other end.
//! [`Connection::receive_fds`] and [`send_fds`](Connection::send_fds) pass descriptors with the bytes.
//! Options that have no setting here are set by [`Builder::socket`], on sockets of any kind.
//!
//! # Limits
//!
//! [`Builder`] has every setting, with its default. Those that a client can run into:
//!
//! | limit | default | beyond it |
//! | --- | --- | --- |
//! | [`max_connections`] | descriptors, less some | the [`Overload`] policy |
//! | [`max_connections_per_peer`], [`connection_rate`] | none | refused |
//! | [`access`] | all clients | denied |
//! | `handshake_timeout`, of TLS | 10 s | closed, [`CloseReason::HandshakeFailed`] |
//! | [`ProxyProtocol::timeout`], [`ProxyHeader::MAX_LENGTH`] | 5 s, 4 KiB | closed, [`CloseReason::BadProxyHeader`] |
//! | [`Threading::max_threads`], [`Forking::max_children`] | none; 40 | left in the backlog |
//! | [`Fibers::max_fibers`] | none | left in the backlog |
//! | [`backlog`] | 1024 | the system refuses connections |
//! | [`max_line_length`] | 64 KiB | [`Error::LineTooLong`] |
//! | [`LengthPrefixed::max_length`] | 64 KiB | [`Error::MessageTooLong`] |
//! | [`max_packet_size`] | none | [`Error::Truncated`] |
//! | [`Connection::receive_fds`] | none are received; an argument | [`Error::TooManyDescriptors`] |
//! | [`idle_timeout`], [`read_timeout`] | none | [`Error::IdleTimeout`], [`Error::ReadTimeout`] |
//! | [`message_timeout`] | none | [`Error::MessageTimeout`] |
//! | [`min_rate`] | none | [`Error::TooSlow`] |
//! | [`write_timeout`] | 30 s | [`Error::WriteTimeout`] |
//! | [`Connection::within`] | none | [`Error::Timeout`] |
//! | [`keepalive`] | about two minutes without an acknowledgement | the connection is reset |
//! | [`user_timeout`] | two minutes with sent data unacknowledged | the connection is reset |
//! | [`Broadcast::with_capacity`] | 4 MiB behind | the member is disconnected |
//! | [`Connection::sender`] | none: an argument | the client is disconnected, [`Error::SlowConsumer`] |
//! | [`stop_timeout`] | 30 s | connections are shut down |
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
//! No error of a connection ends the server, and no shortage of descriptors, threads or memory: the
//! connection waits in the backlog or is refused, and the acceptor backs off until a request ends
//! (or for a time that doubles from 5 ms to 80 ms). What went wrong is logged through the [`log`]
//! crate, and counted in [`Stats`], which Prometheus can read ([`Stats::write_prometheus`]). An
//! [`Observer`] is told of each request, [`events::AccessLog`] for instance. The log
//! also says when the limit on connections is reached, and when that is over;
//! [`raise_descriptor_limit`](Builder::raise_descriptor_limit) raises it to what the system allows.
//!
//! # Forking
//!
//! A forking server takes over its process:
//!
//! - It has no [`spawn`](Server::spawn), and refuses to fork beside other threads
//!   ([`Error::OtherThreads`]): the child would inherit every lock that they hold at that moment,
//!   and never see it released. [`ForkDespiteThreads`] is the `unsafe` way round.
//! - A child has a copy of the handler. What it changes ends with it. Connections share nothing, so
//!   there is no [`Broadcast`] among them. [`ServerHandle::shutdown`] reaches the parent, and
//!   [`Stats`] and [`ServerHandle::is_stopping`] are shared; the rest of a child's [`ServerHandle`]
//!   concerns the child alone.
//! - A child leaves by `_exit`: no destructors of the program run in it, and what it printed
//!   without a newline is lost unless it is flushed.
//! - [`Prefork`] forks its children before they are needed, and each accepts and serves many requests
//!   by itself. It keeps the same rules; its own documentation has what is different.
//! - If the parent dies, its children end gracefully. Children that ignore a stop are sent
//!   `SIGTERM` near the end of its timeout, then `SIGKILL`, and are named in the [`StopReport`].
//! - The parent reaps its own children only, as soon as they end. It needs no `SIGCHLD` handler,
//!   and leaves other children of the program alone.
//!
//! # The way of a request
//!
//! The mixin drives: it asks for the next request, and decides on which thread, in which process or
//! on which fiber the request is finished. Everything that must hold for each request is in those
//! two steps.
//!
//! ```text
//! BaseServer::next_request   wait             listeners, shutdown, a request's end accept/mod.rs
//!                            accept           Transport::accept                    transport/*.rs
//!                                             one at a time, without waiting       accept/listener.rs
//!                                             which errors retry or back off       accept/error.rs
//!                            admit            limits, access, verify_request       accept/admission.rs
//!                              or reject      overload message, lingering close    state/rejected.rs
//!                            register         who is being served                  state/registry.rs
//!                              and observers  accepted, refused                    state/observer.rs
//!
//! Request::finish            opening          a proxy's header, then admit; TLS    request/opening.rs
//!                            setup, handle,   errors and panics to handle_error    request/lifecycle.rs
//!                            finish
//!                              reads, writes  tied buffers, timeouts               connection/mod.rs
//!                              connect, relay other servers                         connection/upstream/
//!                              locks, parks   other handlers                        sync/
//!                              waiting        the one place where a handler blocks net/shared_stream/
//!                            lingering close  so that the last answer arrives      connection/close.rs
//!                            release          its place is free again              state/mod.rs
//!                              and observers  closed                               state/requests.rs
//!
//! Sequential   loop { next_request; finish }                                       mixin/sequential.rs
//! Threading    loop { next_request; a pooled thread: finish }                      mixin/threading.rs
//!                an idle thread then accepts by itself: Listener::accept_idle      mixin/thread_pool.rs
//! Forking      loop { next_request; fork; in the child: finish, _exit }            mixin/forking.rs
//! Prefork      the parent forks, watches and replaces children                     mixin/prefork/
//!                each child is a server by the mixin inside; the others share      state/processes.rs
//!                counters with it, and wake it for a listener one at a time
//! Fibers       on a few worker threads: loop { wait for streams and listeners;     mixin/fibers/worker.rs
//!                accept_each; resume the fibers that are ready }                   mixin/fibers/scheduler.rs
//!                a handler that waits parks its fiber                              mixin/fibers/task.rs
//!
//! stop         ServerHandle::stop asks, and waits for the report                   state/shutdown.rs
//!              the serving thread goes through the steps                           server/shutdown.rs
//! restart      ServerHandle::hand_over passes the listeners on, then a stop        hand_over/
//! ```
//!
//! # Cargo features
//!
//! - `fibers`, on by default: the mixin [`Fibers`].
//! - `tls`: TLS on stream servers and upstreams. It needs a C compiler, for `ring`.
//! - `tracing`: `events::TracingEvents`, an observer that emits events of the crate `tracing`.
//!
//! # Platforms
//!
//! Linux 5.4 or newer. Linux is tested; macOS and FreeBSD are compiled, and their code paths are tested on
//! Linux. `docs/platforms.md` has what is promised where. Fibers are for x86, x86_64, ARM, AArch64, RISC-V
//! and LoongArch; on other processors the feature must be off.

mod accept;
mod address;
mod broadcast;
mod close_reason;
mod config;
mod connection;
mod datagram;
mod error;
pub mod events;
pub mod extend;
pub mod framing;
mod hand_over;
mod handler;
mod id;
mod mixin;
mod net;
mod primitive;
pub mod proxy_protocol;
mod request;
mod select;
mod server;
pub mod services;
mod state;
pub mod sync;
mod sys;
#[cfg(feature = "tls")]
mod tls;
pub mod transport;

pub use ipnet;
#[cfg(feature = "tls")]
pub use rustls;
pub use socket2;

pub use address::{Address, Endpoint, Scheme, UnixName};
pub use broadcast::{Broadcast, Member};
pub use close_reason::CloseReason;
pub use config::{Access, ConnectionRate, Keepalive, MinRate, Overload, Peers, ProxyProtocol};
pub use connection::{
    ConnectOptions, Connection, InMemoryConnection, Line, Reader, RelayEnd, Relayed, Sender, Writer,
};
pub use datagram::{DatagramRequest, InMemoryDatagram};
pub use error::{Error, Result};
pub use handler::{
    DatagramRequestHandler, HandlerError, HandlerResult, StreamRequestHandler, datagram_handler_fn,
    handler_fn,
};
pub use id::{ConnectionId, ListenerId, MemberId};
#[cfg(feature = "fibers")]
pub use mixin::Fibers;
pub use mixin::{ForkDespiteThreads, Forking, Prefork, Sequential, Threading};
pub use net::PeerCredentials;
#[doc(no_inline)]
pub use proxy_protocol::ProxyHeader;
pub use request::IntoHandler;
pub use select::{Select, Source};
pub use server::Builder;
#[cfg(feature = "fibers")]
pub use server::{FiberTcpServer, FiberUdpServer, FiberUnixDatagramServer, FiberUnixStreamServer};
pub use server::{
    ForkingTcpServer, ForkingUdpServer, ForkingUnixDatagramServer, ForkingUnixStreamServer,
    Handled, Server, TcpServer, ThreadingTcpServer, ThreadingUdpServer,
    ThreadingUnixDatagramServer, ThreadingUnixStreamServer, UdpServer, UnixDatagramServer,
    UnixStreamServer,
};
pub use state::{
    ConnectionInfo, Histogram, ListenerInfo, Observer, RunningServer, ServerHandle, Stats,
    StopReport,
};
pub use sync::Activity;
#[cfg(feature = "tls")]
pub use tls::{ClientCertificates, TlsClientConfig, TlsConfig, TlsInfo};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeDoctests;

#[cfg(doctest)]
#[doc = include_str!("../docs/deploying.md")]
struct DeployingDoctests;
