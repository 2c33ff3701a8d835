//! The traits that handlers implement.

use std::error::Error;
use std::sync::Arc;

use crate::connection::Connection;
use crate::datagram::DatagramRequest;

/// The error of a handler: any error that `?` can convert.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// The result of a handler's method.
pub type HandlerResult = Result<(), HandlerError>;

/// The methods of a handler that is a pointer to one.
macro_rules! forward_methods {
    ($request:ty) => {
        fn verify_request(&self, request: &$request) -> bool {
            (**self).verify_request(request)
        }

        fn setup(&self, request: &mut $request) -> HandlerResult {
            (**self).setup(request)
        }

        fn handle(&self, request: &mut $request) -> HandlerResult {
            (**self).handle(request)
        }

        fn finish(&self, request: &mut $request) -> HandlerResult {
            (**self).finish(request)
        }

        fn handle_error(&self, request: &$request, error: &(dyn Error + Send + Sync + 'static)) {
            (**self).handle_error(request, error);
        }
    };
}

/// Serves the connections of a stream server.
///
/// One handler serves all connections of its server, concurrently under
/// [`Threading`](crate::Threading), so its methods take `&self`. The state of one connection is in
/// the variables of [`handle`](StreamRequestHandler::handle); state shared by all connections is in
/// the handler's fields, in locks or atomics.
///
/// The order of calls is `verify_request`, `setup`, `handle`, `finish`, as in CPython. An error or
/// a panic in any of them ends only this connection.
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
/// Closures are handlers, too. If the compiler cannot infer the type of the argument, wrap the
/// closure in [`handler_fn`].
pub trait StreamRequestHandler: Send + Sync + 'static {
    /// Whether to serve this connection; if not, it is closed. `true` by default.
    ///
    /// It runs on the accepting thread, before a thread, process or fiber is used for the
    /// connection, so it should not block; it cannot read or write. For a connection over TLS, or from a
    /// [proxy](crate::Builder::proxy_protocol), it runs where the handler does, after the handshake.
    fn verify_request(&self, connection: &Connection) -> bool {
        let _ = connection;
        true
    }

    /// Prepares the connection. If it fails, neither `handle` nor `finish` is called.
    fn setup(&self, connection: &mut Connection) -> HandlerResult {
        let _ = connection;
        Ok(())
    }

    /// Serves the connection. When it returns, the output is sent and the connection is closed.
    fn handle(&self, connection: &mut Connection) -> HandlerResult;

    /// Cleans up. It is called if `setup` has succeeded, also after `handle` has failed or
    /// panicked. [`Connection::close_reason`] tells why the connection ends.
    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        let _ = connection;
        Ok(())
    }

    /// Called with each error of the other methods, and for each panic with
    /// [`Error::Panicked`](crate::Error::Panicked). By default it is logged.
    ///
    /// A disconnect by the peer ([`Error::is_disconnect`](crate::Error::is_disconnect)) is a normal
    /// end, and is not reported.
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

/// A handler that the program shares with the server.
impl<H: StreamRequestHandler + ?Sized> StreamRequestHandler for Arc<H> {
    forward_methods!(Connection);
}

/// A handler chosen at run time.
///
/// ```
/// use socketserver::services::{Chat, Echo};
/// use socketserver::{StreamRequestHandler, ThreadingTcpServer};
///
/// # let is_chat = true;
/// let handler: Box<dyn StreamRequestHandler> =
///     if is_chat { Box::new(Chat::new()) } else { Box::new(Echo) };
/// let server = ThreadingTcpServer::bind("127.0.0.1:0", handler)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
impl StreamRequestHandler for Box<dyn StreamRequestHandler> {
    forward_methods!(Connection);
}

/// Serves the datagrams of a datagram server, as [`StreamRequestHandler`] serves connections.
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
/// Length.handle(request.as_mut()).unwrap();
/// assert_eq!(request.finish().unwrap(), [b"5\n"]);
/// ```
pub trait DatagramRequestHandler: Send + Sync + 'static {
    /// Whether to serve this datagram; if not, it is dropped. `true` by default.
    fn verify_request(&self, request: &DatagramRequest) -> bool {
        let _ = request;
        true
    }

    /// Prepares the request. If it fails, neither `handle` nor `finish` is called.
    fn setup(&self, request: &mut DatagramRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Serves the datagram. When it returns without an error, what was written to the request is
    /// sent as one reply.
    fn handle(&self, request: &mut DatagramRequest) -> HandlerResult;

    /// Cleans up. It is called if `setup` has succeeded, also after `handle` has failed or
    /// panicked.
    fn finish(&self, request: &mut DatagramRequest) -> HandlerResult {
        let _ = request;
        Ok(())
    }

    /// Called with each error of the other methods, for each panic with
    /// [`Error::Panicked`](crate::Error::Panicked), with the error of a reply that could not be
    /// sent, and for a datagram that was too long and dropped with
    /// [`Error::Truncated`](crate::Error::Truncated) (the request has no data then). By default it
    /// is logged.
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

/// A handler that the program shares with the server.
impl<H: DatagramRequestHandler + ?Sized> DatagramRequestHandler for Arc<H> {
    forward_methods!(DatagramRequest);
}

/// A handler chosen at run time.
impl DatagramRequestHandler for Box<dyn DatagramRequestHandler> {
    forward_methods!(DatagramRequest);
}

/// Returns the closure, as a stream handler whose argument type the compiler can infer.
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

/// Returns the closure, as a datagram handler whose argument type the compiler can infer.
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

#[cfg(all(test, not(shuttle)))]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    struct Recorder(Arc<Mutex<Vec<&'static str>>>);

    impl StreamRequestHandler for Recorder {
        fn verify_request(&self, _: &Connection) -> bool {
            self.0.lock().push("verify_request");
            false
        }

        fn setup(&self, _: &mut Connection) -> HandlerResult {
            self.0.lock().push("setup");
            Ok(())
        }

        fn handle(&self, _: &mut Connection) -> HandlerResult {
            self.0.lock().push("handle");
            Ok(())
        }

        fn finish(&self, _: &mut Connection) -> HandlerResult {
            self.0.lock().push("finish");
            Ok(())
        }

        fn handle_error(&self, _: &Connection, _: &(dyn Error + Send + Sync + 'static)) {
            self.0.lock().push("handle_error");
        }
    }

    fn call_all(handler: impl StreamRequestHandler) {
        let mut in_memory = Connection::in_memory("");
        let connection = in_memory.as_mut();
        assert!(!handler.verify_request(connection));
        handler.setup(connection).unwrap();
        handler.handle(connection).unwrap();
        handler.finish(connection).unwrap();
        handler.handle_error(connection, &std::fmt::Error);
    }

    #[test]
    fn shared_and_boxed_handlers_forward_all_methods() {
        let calls = Arc::new(Mutex::new(Vec::new()));
        call_all(Box::new(Recorder(calls.clone())) as Box<dyn StreamRequestHandler>);
        let expected = ["verify_request", "setup", "handle", "finish", "handle_error"];
        assert_eq!(std::mem::take(&mut *calls.lock()), expected);
        call_all(Arc::new(Recorder(calls.clone())) as Arc<dyn StreamRequestHandler>);
        assert_eq!(*calls.lock(), expected);
    }
}
