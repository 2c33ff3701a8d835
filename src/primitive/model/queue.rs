//! Channels as those of `crossbeam_channel`, without the calls that wait.

use std::collections::VecDeque;
use std::sync::Arc;

use crossbeam_channel::{TryRecvError, TrySendError};

use super::Mutex;

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<T>,
    senders: usize,
    receivers: usize,
}

type Shared<T> = Arc<(Option<usize>, Mutex<State<T>>)>;

#[derive(Debug)]
pub(crate) struct Sender<T>(Shared<T>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Shared<T>);

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    with_capacity(Some(capacity))
}

pub(crate) fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    with_capacity(None)
}

fn with_capacity<T>(capacity: Option<usize>) -> (Sender<T>, Receiver<T>) {
    let state = State { messages: VecDeque::new(), senders: 1, receivers: 1 };
    let shared = Arc::new((capacity, Mutex::new(state)));
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        let mut state = self.0.1.lock();
        if state.receivers == 0 {
            return Err(TrySendError::Disconnected(message));
        }
        if self.0.0.is_some_and(|capacity| state.messages.len() >= capacity) {
            return Err(TrySendError::Full(message));
        }
        state.messages.push_back(message);
        Ok(())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.0.is_some_and(|capacity| self.len() >= capacity)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.1.lock().messages.len()
    }

    pub(crate) fn capacity(&self) -> Option<usize> {
        self.0.0
    }

    pub(crate) fn same_channel(&self, other: &Sender<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.1.lock();
        let message = state.messages.pop_front();
        message.ok_or(match state.senders {
            0 => TryRecvError::Disconnected,
            _ => TryRecvError::Empty,
        })
    }

    pub(crate) fn is_full(&self) -> bool {
        self.0.0.is_some_and(|capacity| self.len() >= capacity)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn len(&self) -> usize {
        self.0.1.lock().messages.len()
    }

    pub(crate) fn capacity(&self) -> Option<usize> {
        self.0.0
    }

    pub(crate) fn same_channel(&self, other: &Receiver<T>) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Sender<T> {
        self.0.1.lock().senders += 1;
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Receiver<T> {
        self.0.1.lock().receivers += 1;
        Receiver(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.1.lock().senders -= 1;
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.1.lock().receivers -= 1;
    }
}
