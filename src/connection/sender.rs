//! [`Sender`]: sends messages to one connection from any thread.

use std::fmt;
use std::io::Write;
use std::sync::Arc;

use super::Connection;
use crate::error::{Error, Result};
use crate::net::outbox::Outbox;

/// Sends messages to one connection, from any thread or handler, without waiting for the client.
///
/// It is made by [`Connection::sender`]. Clones send to the same connection. For one message to many
/// connections there is [`Broadcast`](crate::Broadcast).
#[derive(Clone)]
pub struct Sender {
    outbox: Arc<Outbox>,
}

impl Connection {
    /// A handle by which other threads, and other handlers, send messages to this connection.
    ///
    /// A background thread writes the messages, one thread for all senders of a server, in the order
    /// in which they were sent, also while the handler waits. Neither a message nor what the handler
    /// writes in one call is split by the other. What the handler writes to the system (when its
    /// buffer is full, or by a [`flush`](Write::flush)) follows the messages that were sent before. Its
    /// output so far is sent first.
    ///
    /// A client that is behind by more than `capacity` bytes of messages is disconnected
    /// ([`CloseReason::Limit`](crate::CloseReason::Limit)), and each further [`send`](Sender::send)
    /// fails. A burst must fit into the capacity while the handler itself is writing. With zero, the
    /// system must take each message at once. The senders of a connection share one capacity, that of
    /// the last call.
    ///
    /// When the handler returns, the sender is closed. What was sent before is written then, within
    /// the [`write_timeout`](crate::Builder::write_timeout) and a stop's. A
    /// [`flush`](Write::flush) does that earlier: it returns when all messages so far are written. A
    /// sender that is kept longer keeps neither the connection nor its descriptor.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use socketserver::{Connection, HandlerResult, Sender};
    /// use std::sync::Mutex;
    ///
    /// /// The clients that want to know the time.
    /// static CLIENTS: Mutex<Vec<Sender>> = Mutex::new(Vec::new());
    ///
    /// fn handle(connection: &mut Connection) -> HandlerResult {
    ///     CLIENTS.lock().unwrap().push(connection.sender(64 * 1024)?);
    ///     let mut line = String::new();
    ///     while connection.read_line(&mut line)? > 0 {}
    ///     Ok(())
    /// }
    ///
    /// /// Called by a thread of the program, again and again.
    /// fn tick() {
    ///     let time = format!("{:?}\n", SystemTime::now());
    ///     CLIENTS.lock().unwrap().retain(|client| client.send(&time).is_ok());
    /// }
    ///
    /// let mut connection = Connection::in_memory("");
    /// let sender = connection.as_mut().sender(64 * 1024)?;
    /// std::thread::spawn(move || sender.send("tick\n")).join().unwrap()?;
    /// assert_eq!(connection.output(), b"tick\n");
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::System`] when the output so far cannot be sent, or the background thread, which the
    /// first call on a server starts, cannot be started.
    pub fn sender(&mut self, capacity: usize) -> Result<Sender> {
        let sent = self.flush().and_then(|()| self.stream.check());
        sent.map_err(Error::system("write to the connection of a sender"))?;
        let writer = self.server.state().outbox_writer.start();
        let writer = writer.map_err(Error::system("start the thread of senders"))?;
        let outbox = self.stream.outbox_or_new(writer);
        outbox.set_capacity(capacity);
        Ok(Sender { outbox: outbox.clone() })
    }

    /// Has its senders fail from now on.
    pub(super) fn close_senders(&self) {
        if let Some(outbox) = self.stream.outbox() {
            outbox.close();
        }
    }
}

impl Sender {
    /// Sends a message: a line, a frame, whatever must not be split. It never waits for the client, and
    /// an empty one is not sent.
    ///
    /// A message that was taken is written before the connection is closed, unless the client is gone,
    /// or takes nothing until a timeout. That the client is gone may be found out after further
    /// messages were taken.
    ///
    /// # Errors
    /// [`Error::SlowConsumer`] when the client is too far behind, with this message or an earlier one;
    /// [`Error::ConnectionClosed`] when the connection has ended. From then on each call fails.
    pub fn send(&self, message: impl AsRef<[u8]>) -> Result<()> {
        self.outbox.send(message.as_ref())
    }

    /// Whether [`send`](Sender::send) would fail: the connection has ended, or the client was too far
    /// behind.
    pub fn is_closed(&self) -> bool {
        self.outbox.is_closed()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("is_closed", &self.is_closed()).finish_non_exhaustive()
    }
}
