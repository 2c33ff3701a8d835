//! Channels without room: a message is passed when a sender and a receiver are both there.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::receiver::{self, Receiver};
use super::sender::{self, Sender};
use super::{RecvTimeoutError, SendTimeoutError, TryRecvError, TrySendError};
use crate::primitive::Mutex;
use crate::sync::wait_queue::{Waiter, take};
use crate::sync::{Activity, Current, Interrupted};

pub(super) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = State { senders: Side::new(), receivers: Side::new(), observers: Vec::new() };
    let shared = Arc::new(Mutex::new(state));
    let sender = RendezvousSender(shared.clone());
    let receiver = RendezvousReceiver(shared);
    (Sender(sender::Flavor::Rendezvous(sender)), Receiver(receiver::Flavor::Rendezvous(receiver)))
}

#[derive(Debug)]
struct State<T> {
    senders: Side<T>,
    receivers: Side<T>,
    /// Unparked when a sender comes to wait, and when the last sender leaves.
    observers: Vec<Arc<Current>>,
}

/// One side of a channel.
#[derive(Debug)]
struct Side<T> {
    count: usize,
    /// Those that wait. At most one of both sides has any.
    waiting: VecDeque<Arc<Exchange<T>>>,
}

/// A sender that waits, with its message, or a receiver that waits, without one.
#[derive(Debug)]
struct Exchange<T> {
    waiter: Arc<Waiter>,
    /// Given and taken under the channel's lock, by the one that takes this out of its queue; or by
    /// the one that waits, after that.
    message: Mutex<Option<T>>,
}

impl<T> Side<T> {
    fn new() -> Side<T> {
        Side { count: 1, waiting: VecDeque::new() }
    }

    fn wait(&mut self, current: &Arc<Current>, message: Option<T>) -> Arc<Exchange<T>> {
        let exchange =
            Arc::new(Exchange { waiter: Waiter::new(current), message: Mutex::new(message) });
        self.waiting.push_back(exchange.clone());
        exchange
    }

    /// If it was the last one, returns those of the other side, which need not wait any more.
    fn remove_one(&mut self, others: &mut Side<T>) -> Option<VecDeque<Arc<Exchange<T>>>> {
        self.count -= 1;
        (self.count == 0).then(|| std::mem::take(&mut others.waiting))
    }
}

/// Waits until the exchange was taken out of its queue. Fails, with it taken out, if the wait is
/// interrupted before.
fn wait<T>(
    current: &Current,
    exchange: &Arc<Exchange<T>>,
    deadline: Option<Instant>,
    take_out: impl FnOnce(&Arc<Exchange<T>>) -> bool,
) -> Result<(), Interrupted> {
    let waited = current.doing(Activity::Waiting, || exchange.waiter.wait(deadline));
    waited.or_else(|interrupted| if take_out(exchange) { Err(interrupted) } else { Ok(()) })
}

#[derive(Debug)]
pub(super) struct RendezvousSender<T>(Arc<Mutex<State<T>>>);

impl<T> RendezvousSender<T> {
    pub(super) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.pass(&mut self.0.lock(), message).map(|receiver| receiver.waiter.grant())
    }

    /// Gives the message to a receiver that waits.
    fn pass(&self, state: &mut State<T>, message: T) -> Result<Arc<Exchange<T>>, TrySendError<T>> {
        match state.receivers.waiting.pop_front() {
            Some(receiver) => {
                *receiver.message.lock() = Some(message);
                Ok(receiver)
            }
            None if state.receivers.count == 0 => Err(TrySendError::Disconnected(message)),
            None => Err(TrySendError::Full(message)),
        }
    }

    pub(super) fn send(
        &self,
        message: T,
        deadline: Option<Instant>,
    ) -> Result<(), SendTimeoutError<T>> {
        let mut state = self.0.lock();
        let message = match self.pass(&mut state, message) {
            Ok(receiver) => {
                drop(state);
                receiver.waiter.grant();
                return Ok(());
            }
            Err(TrySendError::Disconnected(message)) => {
                return Err(SendTimeoutError::Disconnected(message));
            }
            Err(TrySendError::Full(message)) => message,
        };
        let current = Current::get();
        let exchange = state.senders.wait(&current, Some(message));
        let observers = state.observers.clone();
        drop(state);
        observers.iter().for_each(|observer| observer.unpark());
        let take_out = |exchange: &_| take(&mut self.0.lock().senders.waiting, exchange);
        let waited = wait(&current, &exchange, deadline, take_out);
        let message = exchange.message.lock().take();
        match (message, waited) {
            (None, _) => Ok(()),
            (Some(message), Err(Interrupted::TimedOut | Interrupted::Limit(_))) => {
                Err(SendTimeoutError::Timeout(message))
            }
            (Some(message), _) => Err(SendTimeoutError::Disconnected(message)),
        }
    }

    pub(super) fn same_channel(&self, other: &RendezvousSender<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for RendezvousSender<T> {
    fn clone(&self) -> RendezvousSender<T> {
        self.0.lock().senders.count += 1;
        RendezvousSender(self.0.clone())
    }
}

impl<T> Drop for RendezvousSender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let State { senders, receivers, observers } = &mut *state;
        let Some(waiting) = senders.remove_one(receivers) else { return };
        let observers = observers.clone();
        drop(state);
        waiting.iter().for_each(|receiver| receiver.waiter.grant());
        observers.iter().for_each(|observer| observer.unpark());
    }
}

#[derive(Debug)]
pub(super) struct RendezvousReceiver<T>(Arc<Mutex<State<T>>>);

impl<T> RendezvousReceiver<T> {
    pub(super) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.take(&mut self.0.lock()).map(|(sender, message)| {
            sender.waiter.grant();
            message
        })
    }

    /// Takes the message of a sender that waits.
    fn take(&self, state: &mut State<T>) -> Result<(Arc<Exchange<T>>, T), TryRecvError> {
        let sender = state.senders.waiting.pop_front();
        let taken = sender.and_then(|sender| {
            let message = sender.message.lock().take();
            message.map(|message| (sender, message))
        });
        taken.ok_or(match state.senders.count {
            0 => TryRecvError::Disconnected,
            _ => TryRecvError::Empty,
        })
    }

    pub(super) fn recv(&self, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let mut state = self.0.lock();
        match self.take(&mut state) {
            Ok((sender, message)) => {
                drop(state);
                sender.waiter.grant();
                return Ok(message);
            }
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) => {}
        }
        let current = Current::get();
        let exchange = state.receivers.wait(&current, None);
        drop(state);
        let take_out = |exchange: &_| take(&mut self.0.lock().receivers.waiting, exchange);
        let waited = wait(&current, &exchange, deadline, take_out);
        let message = exchange.message.lock().take();
        match (message, waited) {
            (Some(message), _) => Ok(message),
            (None, Err(Interrupted::TimedOut | Interrupted::Limit(_))) => {
                Err(RecvTimeoutError::Timeout)
            }
            (None, _) => Err(RecvTimeoutError::Disconnected),
        }
    }

    /// Whether `recv` need not wait.
    pub(super) fn is_ready(&self) -> bool {
        let state = self.0.lock();
        !state.senders.waiting.is_empty() || state.senders.count == 0
    }

    pub(super) fn add_waiter(&self, current: &Arc<Current>) {
        self.0.lock().observers.push(current.clone());
    }

    pub(super) fn remove_waiter(&self, current: &Arc<Current>) {
        let observers = &mut self.0.lock().observers;
        let position = observers.iter().position(|other| Arc::ptr_eq(other, current));
        position.map(|position| observers.swap_remove(position));
    }

    pub(super) fn same_channel(&self, other: &RendezvousReceiver<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for RendezvousReceiver<T> {
    fn clone(&self) -> RendezvousReceiver<T> {
        self.0.lock().receivers.count += 1;
        RendezvousReceiver(self.0.clone())
    }
}

impl<T> Drop for RendezvousReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        let State { senders, receivers, .. } = &mut *state;
        let Some(waiting) = receivers.remove_one(senders) else { return };
        drop(state);
        waiting.iter().for_each(|sender| sender.waiter.grant());
    }
}
