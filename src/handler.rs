//! The traits that a user implements.

use std::error::Error;
use std::sync::Arc;

use crate::connection::Connection;
use crate::datagram::DatagramRequest;

/// What went wrong in a handler: anything that `?` can be used on.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// What a handler returns.
pub type HandlerResult = Result<(), HandlerError>;

/// What a server does with each connection.
///
/// One handler serves all connections of its server, many at a time under
/// [`Threading`](crate::Threading), so it is shared and takes `&self`: what concerns one connection
/// lives in the variables of [`handle`](StreamRequestHandler::handle), what concerns all of them in
/// the handler's fields, behind a lock or atomic.
///
/// The order of calls is `verify_request`, `setup`, `handle`, `finish`, as in CPython. An error or
/// a panic in any of them ends this connection and no other.
///
/// ```
/// use std::io::{BufRead, Write};
/// use socketserver::{Connection, HandlerResult, StreamRequestHandler};
///
/// struct Upper;
///
/// impl StreamRequestHandler for Upper {
///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
///         let mut line = Vec::new();
///         while connection.read_line(&mut line)? > 0 {
///             connection.write_all(&line.to_ascii_uppercase())?;
///             line.clear();
///         }
///         Ok(())
///     }
/// }
/// ```
///
/// A closure is a handler too; where its argument's type is not written out, [`handler_fn`] helps
/// the compiler along.
pub trait StreamRequestHandler: Send + Sync + 'static {
    /// Whether to serve this connection at all; if not, it is closed. By default all are served.
    ///
    /// Called on the thread that accepts, before a thread or process is spent: it should be quick,
    /// and neither read nor write.
    fn verify_request(&self, connection: &Connection) -> bool {
        let _ = connection;
        true
    }

    /// Prepares the connection. When it fails, neither `handle` nor `finish` is called.
    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        let _ = connection;
        Ok(())
    }

    /// Serves the connection, to its end. When this returns, what was written is sent, and the
    /// connection closed.
    fn handle(&self, connection: &mut Connection) -> HandlerResult;

    /// Cleans up: called whenever `setup` succeeded, also after `handle` failed or panicked.
    /// [`Connection::close_reason`] says why the connection ends.
    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        let _ = connection;
        Ok(())
    }

    /// Told of each error that the other methods return, and of each panic
    /// ([`Error::Panicked`](crate::Error::Panicked)). By default it is logged.
    ///
    /// A peer that hangs up is a normal end, and not reported here; see
    /// [`is_hang_up`](crate::is_hang_up).
    fn handle_error(&self, connection: &Connection, error: &(dyn Error + Send + Sync + 'static)) {
        log::error!("connection {} from {}: {error}", connection.id(), connection.peer_addr());
    }
}

impl<F> StreamRequestHandler for F
where
    F: Fn(&mut Connection) -> HandlerResult + Send + Sync + 'static,
{
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        self(connection)
    }
}

/// A handler that others hold on to.
impl<H: StreamRequestHandler + ?Sized> StreamRequestHandler for Arc<H> {
    fn verify_request(&self, connection: &Connection) -> bool {
        (**self).verify_request(connection)
    }

    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        (**self).setup(connection)
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        (**self).handle(connection)
    }

    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        (**self).finish(connection)
    }

    fn handle_error(&self, connection: &Connection, error: &(dyn Error + Send + Sync + 'static)) {
        (**self).handle_error(connection, error);
    }
}

/// What a server does with each datagram: the like of [`StreamRequestHandler`].
///
/// ```
/// use std::io::Write;
/// use socketserver::{DatagramRequest, DatagramRequestHandler, HandlerResult};
///
/// struct Length;
///
/// impl DatagramRequestHandler for Length {
///     fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
///         let length = request.data().len();
///         writeln!(request, "{length}")?;
///         Ok(())
///     }
/// }
///
/// let mut request = DatagramRequest::in_memory("hello");
/// Length.handle(&mut request).unwrap();
/// assert_eq!(request.finish().unwrap(), [b"5\n"]);
/// ```
pub trait DatagramRequestHandler: Send + Sync + 'static {
    /// Whether to serve this datagram at all; if not, it is dropped. By default all are served.
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        let _ = request;
        true
    }

    /// Prepares the request. When it fails, neither `handle` nor `finish` is called.
    fn setup(&self, request: &mut DatagramRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Serves the datagram. When this returns without an error, what was written to the request
    /// is sent as one reply.
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult;

    /// Cleans up: called whenever `setup` succeeded, also after `handle` failed or panicked.
    fn finish(&self, request: &mut DatagramRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Told of each error that the other methods return, of each panic
    /// ([`Error::Panicked`](crate::Error::Panicked)), of a reply that could not be sent, and of a
    /// datagram that was dropped for its length ([`Error::Truncated`](crate::Error::Truncated),
    /// with a request that has no data). By default it is logged.
    fn handle_error(&self, request: &DatagramRequest, error: &(dyn Error + Send + Sync + 'static)) {
        log::error!("datagram from {}: {error}", request.peer_addr());
    }
}

impl<F> DatagramRequestHandler for F
where
    F: Fn(&mut DatagramRequest) -> HandlerResult + Send + Sync + 'static,
{
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        self(request)
    }
}

/// A handler that others hold on to.
impl<H: DatagramRequestHandler + ?Sized> DatagramRequestHandler for Arc<H> {
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        (**self).verify_request(request)
    }

    fn setup(&self, request: &mut DatagramRequest) -> HandlerResult {
        (**self).setup(request)
    }

    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult {
        (**self).handle(request)
    }

    fn finish(&self, request: &mut DatagramRequest) -> HandlerResult {
        (**self).finish(request)
    }

    fn handle_error(&self, request: &DatagramRequest, error: &(dyn Error + Send + Sync + 'static)) {
        (**self).handle_error(request, error);
    }
}

/// Lets a closure be a stream handler without spelling out its argument.
///
/// ```
/// use std::io::Write;
/// use socketserver::{ThreadingTcpServer, handler_fn};
///
/// let hello = handler_fn(|connection| Ok(connection.write_all(b"Hello World!\n")?));
/// let server = ThreadingTcpServer::bind("127.0.0.1:0", hello)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub fn handler_fn<F>(handle: F) -> F
where
    F: Fn(&mut Connection) -> HandlerResult + Send + Sync + 'static,
{
    handle
}

/// Lets a closure be a datagram handler without spelling out its argument.
///
/// ```
/// use socketserver::{UdpServer, datagram_handler_fn};
///
/// let pong = datagram_handler_fn(|request| Ok(request.reply(b"pong")?));
/// let server = UdpServer::bind("127.0.0.1:0", pong)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub fn datagram_handler_fn<F>(handle: F) -> F
where
    F: Fn(&mut DatagramRequest) -> HandlerResult + Send + Sync + 'static,
{
    handle
}
