//! [`Sender`].

use std::fmt;
use std::time::{Duration, Instant};

use super::buffered::BufferedSender;
use super::rendezvous::RendezvousSender;
use super::{SendError, SendTimeoutError, TrySendError};

/// The side of a [channel](super) that sends. A clone sends to the same channel.
///
/// ```
/// use std::time::Duration;
/// use socketserver::sync::channel::{SendTimeoutError, TrySendError, bounded};
///
/// let (sender, receiver) = bounded(1);
/// sender.send(1)?;
/// assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
/// let timeout = Duration::from_millis(1);
/// assert_eq!(sender.send_timeout(2, timeout), Err(SendTimeoutError::Timeout(2)));
/// drop(receiver);
/// assert_eq!(sender.try_send(2), Err(TrySendError::Disconnected(2)));
/// # Ok::<(), socketserver::sync::channel::SendError<i32>>(())
/// ```
pub struct Sender<T>(pub(super) Flavor<T>);

pub(super) enum Flavor<T> {
    Buffered(BufferedSender<T>),
    Rendezvous(RendezvousSender<T>),
}

impl<T> Sender<T> {
    /// Sends a message; waits for room, or for a receiver, if there is none.
    ///
    /// # Errors
    /// With the message, if the channel is disconnected, or a stop of the server is out of time while
    /// it waits.
    #[inline]
    pub fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.send_until(message, None).map_err(|error| SendError(error.into_inner()))
    }

    /// Sends a message if that need not wait: if there is room, or for a rendezvous channel
    /// a receiver that waits.
    ///
    /// # Errors
    /// With the message: `Full`, or `Disconnected`.
    #[inline]
    pub fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        match &self.0 {
            Flavor::Buffered(sender) => sender.try_send(message),
            Flavor::Rendezvous(sender) => sender.try_send(message),
        }
    }

    /// As [`send`](Sender::send), but waits at most for `timeout`.
    ///
    /// # Errors
    /// With the message: `Timeout`, or `Disconnected` also if a stop is out of time.
    pub fn send_timeout(&self, message: T, timeout: Duration) -> Result<(), SendTimeoutError<T>> {
        self.send_until(message, Instant::now().checked_add(timeout))
    }

    /// As [`send`](Sender::send), but waits at most until `deadline`.
    ///
    /// # Errors
    /// With the message: `Timeout`, or `Disconnected` also if a stop is out of time.
    pub fn send_deadline(&self, message: T, deadline: Instant) -> Result<(), SendTimeoutError<T>> {
        self.send_until(message, Some(deadline))
    }

    #[inline]
    fn send_until(&self, message: T, deadline: Option<Instant>) -> Result<(), SendTimeoutError<T>> {
        match &self.0 {
            Flavor::Buffered(sender) => sender.send(message, deadline),
            Flavor::Rendezvous(sender) => sender.send(message, deadline),
        }
    }

    /// Whether the channel has no message; always for a rendezvous channel.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Flavor::Buffered(sender) => sender.queue().is_empty(),
            Flavor::Rendezvous(_) => true,
        }
    }

    /// Whether the channel has no room; always for a rendezvous channel.
    pub fn is_full(&self) -> bool {
        match &self.0 {
            Flavor::Buffered(sender) => sender.queue().is_full(),
            Flavor::Rendezvous(_) => true,
        }
    }

    /// How many messages the channel has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Flavor::Buffered(sender) => sender.queue().len(),
            Flavor::Rendezvous(_) => 0,
        }
    }

    /// For how many messages the channel has room: `None` if it is unbounded.
    pub fn capacity(&self) -> Option<usize> {
        match &self.0 {
            Flavor::Buffered(sender) => sender.queue().capacity(),
            Flavor::Rendezvous(_) => Some(0),
        }
    }

    /// Whether both send to the same channel.
    pub fn same_channel(&self, other: &Sender<T>) -> bool {
        match (&self.0, &other.0) {
            (Flavor::Buffered(this), Flavor::Buffered(other)) => {
                this.queue().same_channel(other.queue())
            }
            (Flavor::Rendezvous(this), Flavor::Rendezvous(other)) => this.same_channel(other),
            _ => false,
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        Sender(match &self.0 {
            Flavor::Buffered(sender) => Flavor::Buffered(sender.clone()),
            Flavor::Rendezvous(sender) => Flavor::Rendezvous(sender.clone()),
        })
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sender")
    }
}
