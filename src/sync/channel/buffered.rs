//! Channels with room for messages: a queue of `crossbeam-channel`'s, and those that wait for it.

use std::sync::Arc;
use std::time::Instant;

use super::receiver::{self, Receiver};
use super::sender::{self, Sender};
use super::{RecvTimeoutError, SendTimeoutError, TryRecvError, TrySendError};
use crate::primitive::atomic::{AtomicUsize, Ordering};
use crate::primitive::queue;
use crate::sync::wait_queue::{WaitQueue, Waiter};
use crate::sync::{Activity, Current, Interrupted};

pub(super) fn channel<T>(
    queue: (queue::Sender<T>, queue::Receiver<T>),
) -> (Sender<T>, Receiver<T>) {
    let waiting = Arc::new(Waiting { senders: Side::new(), receivers: Side::new() });
    let sender = BufferedSender { queue: queue.0, end: SenderEnd(waiting.clone()) };
    let receiver = BufferedReceiver { queue: queue.1, end: ReceiverEnd(waiting) };
    (Sender(sender::Flavor::Buffered(sender)), Receiver(receiver::Flavor::Buffered(receiver)))
}

/// Those that wait for messages, and for room.
#[derive(Debug)]
struct Waiting {
    senders: Side,
    receivers: Side,
}

/// One side of a channel.
#[derive(Debug)]
struct Side {
    /// How many senders, or receivers, there are.
    count: AtomicUsize,
    /// Those of them that wait.
    queue: WaitQueue,
}

impl Side {
    fn new() -> Side {
        Side { count: AtomicUsize::new(1), queue: WaitQueue::new() }
    }

    fn add_one(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// If it was the last one, the channel is disconnected, and the other side need not wait.
    fn remove_one(&self, others: &Side) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            others.queue.grant_all();
        }
    }

    fn is_gone(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    /// Calls `attempt` whenever it may succeed, until it returns something or the wait is
    /// interrupted. `is_ready` must read what the other side changes before it grants a waiter.
    fn wait<R>(
        &self,
        deadline: Option<Instant>,
        is_ready: impl Fn() -> bool,
        mut attempt: impl FnMut(Option<Interrupted>) -> Option<R>,
    ) -> R {
        let current = Current::get();
        let mut was_granted = false;
        current.doing(Activity::Waiting, || {
            loop {
                let waiter = Waiter::new(&current);
                match was_granted {
                    true => self.queue.push_front(waiter.clone()),
                    false => self.queue.push_back(waiter.clone()),
                }
                // It looks once more now that it is in the queue: no lost wake-up.
                let interrupted = if is_ready() { None } else { waiter.wait(deadline).err() };
                was_granted = !self.queue.remove(&waiter);
                // After it was taken out: so each waiter that is granted takes one message, or one place,
                // if there is one left, and no other needs to be granted for it.
                if let Some(result) = attempt(interrupted) {
                    return result;
                }
            }
        })
    }
}

#[derive(Debug)]
pub(super) struct BufferedSender<T> {
    // Dropped before `end`, which says so to the receivers that wait.
    queue: queue::Sender<T>,
    end: SenderEnd,
}

#[derive(Debug)]
struct SenderEnd(Arc<Waiting>);

impl<T> BufferedSender<T> {
    #[inline]
    pub(super) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.queue.try_send(message)?;
        // The queue has changed by a sequentially consistent operation before this load.
        self.end.0.receivers.queue.grant_one();
        Ok(())
    }

    pub(super) fn send(
        &self,
        message: T,
        deadline: Option<Instant>,
    ) -> Result<(), SendTimeoutError<T>> {
        match self.try_send(message) {
            Ok(()) => Ok(()),
            Err(TrySendError::Disconnected(message)) => {
                Err(SendTimeoutError::Disconnected(message))
            }
            Err(TrySendError::Full(message)) => self.wait_and_send(message, deadline),
        }
    }

    #[cold]
    fn wait_and_send(
        &self,
        message: T,
        deadline: Option<Instant>,
    ) -> Result<(), SendTimeoutError<T>> {
        let mut message = Some(message);
        let waiting = &*self.end.0;
        let is_ready = || !self.queue.is_full() || waiting.receivers.is_gone();
        waiting.senders.wait(deadline, is_ready, |interrupted| {
            let full = match self.try_send(message.take()?) {
                Ok(()) => return Some(Ok(())),
                Err(TrySendError::Disconnected(message)) => {
                    return Some(Err(SendTimeoutError::Disconnected(message)));
                }
                Err(TrySendError::Full(message)) => message,
            };
            match interrupted {
                None => {
                    message = Some(full);
                    None
                }
                Some(Interrupted::TimedOut | Interrupted::Limit(_)) => {
                    Some(Err(SendTimeoutError::Timeout(full)))
                }
                Some(Interrupted::Stopped) => Some(Err(SendTimeoutError::Disconnected(full))),
            }
        })
    }

    pub(super) fn queue(&self) -> &queue::Sender<T> {
        &self.queue
    }
}

impl<T> Clone for BufferedSender<T> {
    fn clone(&self) -> BufferedSender<T> {
        self.end.0.senders.add_one();
        BufferedSender { queue: self.queue.clone(), end: SenderEnd(self.end.0.clone()) }
    }
}

impl Drop for SenderEnd {
    fn drop(&mut self) {
        self.0.senders.remove_one(&self.0.receivers);
    }
}

#[derive(Debug)]
pub(super) struct BufferedReceiver<T> {
    // Dropped before `end`, which says so to the senders that wait.
    queue: queue::Receiver<T>,
    end: ReceiverEnd,
}

#[derive(Debug)]
struct ReceiverEnd(Arc<Waiting>);

impl<T> BufferedReceiver<T> {
    #[inline]
    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        let message = self.queue.try_recv()?;
        // The queue has changed by a sequentially consistent operation before this load.
        self.end.0.senders.queue.grant_one();
        Ok(message)
    }

    pub(super) fn recv(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        match self.try_recv() {
            Ok(message) => Ok(message),
            Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => self.wait_and_recv(deadline),
        }
    }

    #[cold]
    fn wait_and_recv(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        self.end.0.receivers.wait(
            deadline,
            || self.is_ready(),
            |interrupted| match (self.try_recv(), interrupted) {
                (Ok(message), _) => Some(Ok(message)),
                (Err(TryRecvError::Empty), None) => None,
                (Err(TryRecvError::Empty), Some(Interrupted::TimedOut | Interrupted::Limit(_))) => {
                    Some(Err(RecvTimeoutError::Timeout))
                }
                _ => Some(Err(RecvTimeoutError::Disconnected)),
            },
        )
    }

    /// Whether `recv` need not wait.
    pub(super) fn is_ready(&self) -> bool {
        !self.queue.is_empty() || self.end.0.senders.is_gone()
    }

    pub(super) fn add_waiter(&self, current: &Arc<Current>) {
        self.end.0.receivers.queue.add_observer(current);
    }

    pub(super) fn remove_waiter(&self, current: &Arc<Current>) {
        self.end.0.receivers.queue.remove_observer(current);
    }

    pub(super) fn queue(&self) -> &queue::Receiver<T> {
        &self.queue
    }
}

impl<T> Clone for BufferedReceiver<T> {
    fn clone(&self) -> BufferedReceiver<T> {
        self.end.0.receivers.add_one();
        BufferedReceiver { queue: self.queue.clone(), end: ReceiverEnd(self.end.0.clone()) }
    }
}

impl Drop for ReceiverEnd {
    fn drop(&mut self) {
        self.0.receivers.remove_one(&self.0.senders);
    }
}
