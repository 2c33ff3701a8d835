//! [`Receiver`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::buffered::BufferedReceiver;
use super::rendezvous::RendezvousReceiver;
use super::{IntoIter, Iter, RecvError, RecvTimeoutError, TryIter, TryRecvError};
use crate::sync::{Current, Waitable};

/// The side of a [channel](super) that receives. A clone receives from the same channel: each message
/// goes to one of them.
///
/// ```
/// use std::time::Duration;
/// use socketserver::sync::channel::{RecvError, RecvTimeoutError, TryRecvError, bounded};
///
/// let (sender, receiver) = bounded(1);
/// assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
/// let timeout = Duration::from_millis(1);
/// assert_eq!(receiver.recv_timeout(timeout), Err(RecvTimeoutError::Timeout));
/// sender.send(1)?;
/// drop(sender);
/// assert_eq!(receiver.recv(), Ok(1));
/// assert_eq!(receiver.recv(), Err(RecvError));
/// # Ok::<(), socketserver::sync::channel::SendError<i32>>(())
/// ```
pub struct Receiver<T>(pub(super) Flavor<T>);

pub(super) enum Flavor<T> {
    Buffered(BufferedReceiver<T>),
    Rendezvous(RendezvousReceiver<T>),
}

impl<T> Receiver<T> {
    /// Receives a message; waits for it if there is none.
    ///
    /// # Errors
    /// If there is no message and the channel is disconnected, or a stop of the server is out of time
    /// while it waits.
    #[inline]
    pub fn recv(&self) -> Result<T, RecvError> {
        self.recv_until(None).map_err(|_| RecvError)
    }

    /// Receives a message if there is one.
    ///
    /// # Errors
    /// `Empty`; `Disconnected` if there will not be another one.
    #[inline]
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.try_recv(),
            Flavor::Rendezvous(receiver) => receiver.try_recv(),
        }
    }

    /// As [`recv`](Receiver::recv), but waits at most for `timeout`.
    ///
    /// # Errors
    /// `Timeout`, or `Disconnected` also if a stop is out of time.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.recv_until(Instant::now().checked_add(timeout))
    }

    /// As [`recv`](Receiver::recv), but waits at most until `deadline`.
    ///
    /// # Errors
    /// `Timeout`, or `Disconnected` also if a stop is out of time.
    pub fn recv_deadline(&self, deadline: Instant) -> Result<T, RecvTimeoutError> {
        self.recv_until(Some(deadline))
    }

    #[inline]
    fn recv_until(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.recv(deadline),
            Flavor::Rendezvous(receiver) => receiver.recv(deadline),
        }
    }

    /// Receives messages, waiting for each, until [`recv`](Receiver::recv) fails.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter(self)
    }

    /// Receives messages as long as there are any, without waiting.
    pub fn try_iter(&self) -> TryIter<'_, T> {
        TryIter(self)
    }

    /// Whether the channel has no message; always for a rendezvous channel.
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.queue().is_empty(),
            Flavor::Rendezvous(_) => true,
        }
    }

    /// Whether the channel has no room; always for a rendezvous channel.
    pub fn is_full(&self) -> bool {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.queue().is_full(),
            Flavor::Rendezvous(_) => true,
        }
    }

    /// How many messages the channel has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.queue().len(),
            Flavor::Rendezvous(_) => 0,
        }
    }

    /// For how many messages the channel has room: `None` if it is unbounded.
    pub fn capacity(&self) -> Option<usize> {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.queue().capacity(),
            Flavor::Rendezvous(_) => Some(0),
        }
    }

    /// Whether both receive from the same channel.
    pub fn same_channel(&self, other: &Receiver<T>) -> bool {
        match (&self.0, &other.0) {
            (Flavor::Buffered(this), Flavor::Buffered(other)) => {
                this.queue().same_channel(other.queue())
            }
            (Flavor::Rendezvous(this), Flavor::Rendezvous(other)) => this.same_channel(other),
            _ => false,
        }
    }
}

impl<T> Waitable for Receiver<T> {
    fn is_ready(&self) -> bool {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.is_ready(),
            Flavor::Rendezvous(receiver) => receiver.is_ready(),
        }
    }

    fn add_waiter(&self, waiter: &Arc<Current>) {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.add_waiter(waiter),
            Flavor::Rendezvous(receiver) => receiver.add_waiter(waiter),
        }
    }

    fn remove_waiter(&self, waiter: &Arc<Current>) {
        match &self.0 {
            Flavor::Buffered(receiver) => receiver.remove_waiter(waiter),
            Flavor::Rendezvous(receiver) => receiver.remove_waiter(waiter),
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        Receiver(match &self.0 {
            Flavor::Buffered(receiver) => Flavor::Buffered(receiver.clone()),
            Flavor::Rendezvous(receiver) => Flavor::Rendezvous(receiver.clone()),
        })
    }
}

impl<T> IntoIterator for Receiver<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        IntoIter(self)
    }
}

impl<'a, T> IntoIterator for &'a Receiver<T> {
    type Item = T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receiver")
    }
}
