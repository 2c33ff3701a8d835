//! The iterators over what is received.

use std::iter::FusedIterator;

use super::Receiver;

/// See [`Receiver::iter`].
///
/// ```
/// let (sender, receiver) = socketserver::sync::channel::unbounded();
/// (1..=3).for_each(|number| sender.send(number).unwrap());
/// drop(sender);
/// assert_eq!(receiver.iter().sum::<i32>(), 6);
/// ```
#[derive(Debug)]
pub struct Iter<'a, T>(pub(super) &'a Receiver<T>);

/// See [`Receiver::try_iter`].
///
/// ```
/// let (sender, receiver) = socketserver::sync::channel::unbounded();
/// (1..=3).for_each(|number| sender.send(number).unwrap());
/// assert_eq!(receiver.try_iter().sum::<i32>(), 6);
/// ```
#[derive(Debug)]
pub struct TryIter<'a, T>(pub(super) &'a Receiver<T>);

/// As [`Iter`], of a receiver that it owns.
///
/// ```
/// let (sender, receiver) = socketserver::sync::channel::unbounded();
/// let thread = std::thread::spawn(move || receiver.into_iter().sum::<i32>());
/// (1..=3).for_each(|number| sender.send(number).unwrap());
/// drop(sender);
/// assert_eq!(thread.join().unwrap(), 6);
/// ```
#[derive(Debug)]
pub struct IntoIter<T>(pub(super) Receiver<T>);

impl<T> Iterator for Iter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

impl<T> Iterator for TryIter<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.recv().ok()
    }
}

impl<T> FusedIterator for IntoIter<T> {}
