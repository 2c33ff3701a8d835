//! Channels: messages from threads and handlers to others, with the functions, the semantics and the
//! errors of [`crossbeam-channel`](https://docs.rs/crossbeam-channel). A fiber that waits for
//! a message, or for room, is suspended.
//!
//! Senders and receivers can be cloned, and used by several threads and handlers at a time. A message
//! is received once. When all senders of a channel are dropped, or all of its receivers, it is
//! disconnected: what was sent before can still be received, and then every call fails.
//!
//! Within a handler, a call that would have to wait fails as if the channel were disconnected when
//! a stop of the server is out of time. A call that need not wait succeeds even then.
//!
//! ```
//! use std::io::Write;
//! use socketserver::sync::channel::{Sender, bounded};
//! use socketserver::{Connection, HandlerResult, StreamRequestHandler};
//!
//! /// Passes lines to a thread of the program.
//! struct Collector(Sender<String>);
//!
//! impl StreamRequestHandler for Collector {
//!     fn handle(&self, connection: &mut Connection) -> HandlerResult {
//!         let mut line = String::new();
//!         while connection.read_line(&mut line)? > 0 {
//!             // Waits for the thread, if it is a hundred lines behind.
//!             self.0.send(std::mem::take(&mut line))?;
//!         }
//!         Ok(())
//!     }
//! }
//!
//! let (sender, receiver) = bounded(100);
//! let collector = Collector(sender);
//! std::thread::spawn(move || receiver.iter().for_each(|line| print!("{line}")));
//! ```

mod buffered;
mod iter;
#[cfg(all(test, shuttle))]
mod model;
mod receiver;
mod rendezvous;
mod sender;

pub use crossbeam_channel::{
    RecvError, RecvTimeoutError, SendError, SendTimeoutError, TryRecvError, TrySendError,
};
pub use iter::{IntoIter, Iter, TryIter};
pub use receiver::Receiver;
pub use sender::Sender;

use crate::primitive::queue;

/// A channel with room for `capacity` messages: beyond it senders wait.
///
/// With zero it is a rendezvous channel: a message is passed from one to the other when both are
/// there, and `send` returns when it was received.
///
/// ```
/// use socketserver::sync::channel::bounded;
///
/// let (sender, receiver) = bounded(1);
/// sender.send("one")?;
/// assert!(sender.try_send("two").is_err());
/// assert_eq!(receiver.recv(), Ok("one"));
/// # Ok::<(), socketserver::sync::channel::SendError<&str>>(())
/// ```
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    match capacity {
        0 => rendezvous::channel(),
        _ => buffered::channel(queue::bounded(capacity)),
    }
}

/// A channel for any number of messages: senders never wait.
///
/// The memory for messages that are sent faster than they are received has no bound: in a server,
/// clients must not be able to cause that.
///
/// ```
/// use socketserver::sync::channel::unbounded;
///
/// let (sender, receiver) = unbounded();
/// sender.send(1)?;
/// sender.send(2)?;
/// drop(sender);
/// assert_eq!(receiver.iter().collect::<Vec<_>>(), [1, 2]);
/// # Ok::<(), socketserver::sync::channel::SendError<i32>>(())
/// ```
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    buffered::channel(queue::unbounded())
}
