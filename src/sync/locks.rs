//! [`Mutex`] and [`RwLock`].

use super::lock_queue::WaitingLocks;
use crate::sys::raw_lock::RawLock;

/// How the locks of this module are locked: the parameter of [`lock_api`]'s types.
pub type RawMutex = RawLock<WaitingLocks>;

/// The same for [`RwLock`].
pub type RawRwLock = RawLock<WaitingLocks>;

/// A mutex that may be held while a handler waits for its client: as
/// [`parking_lot::Mutex`](https://docs.rs/parking_lot/latest/parking_lot/type.Mutex.html), but a fiber
/// that waits for it is suspended, and its worker goes on with others.
///
/// A lock and unlock without contention is one atomic operation each, as in `parking_lot`. The mutex
/// goes to the first that asks for it, but is handed to a waiter that has waited for half a
/// millisecond. It is not poisoned by a panic.
///
/// - `lock` waits until it has the mutex, also at the end of a stop: then the waits of the handler
///   that holds it fail, and it releases the mutex.
/// - `try_lock_for` and `try_lock_until` return `None` at the deadline, and earlier if a stop of the
///   server is out of time.
///
/// A thread or fiber that locks a mutex that it holds waits for itself: with debug assertions it
/// panics. While a panic unwinds, a fiber that locks a mutex blocks its worker.
///
/// ```
/// use std::io::Write;
/// use std::time::Duration;
/// use socketserver::sync::Mutex;
/// use socketserver::{Connection, HandlerResult, StreamRequestHandler};
///
/// /// Lets one client speak at a time.
/// struct Turns(Mutex<Vec<String>>);
///
/// impl StreamRequestHandler for Turns {
///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
///         let Some(mut lines) = self.0.try_lock_for(Duration::from_secs(60)) else {
///             return Ok(connection.write_all(b"busy\n")?);
///         };
///         let mut line = String::new();
///         connection.read_line(&mut line)?;
///         lines.push(line);
///         Ok(())
///     }
/// }
/// ```
pub type Mutex<T> = lock_api::Mutex<RawMutex, T>;

/// Holds a [`Mutex`], on the thread or fiber that has locked it, until it is dropped.
///
/// ```
/// use socketserver::sync::{Mutex, MutexGuard};
///
/// let mutex = Mutex::new(1);
/// let mut guard = mutex.lock();
/// *guard += 1;
/// MutexGuard::unlocked(&mut guard, || *mutex.lock() += 1);
/// assert_eq!(*guard, 3);
/// ```
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawMutex, T>;

/// A [`MutexGuard`] of a part of what the mutex protects.
///
/// ```
/// use socketserver::sync::{MappedMutexGuard, Mutex, MutexGuard};
///
/// let mutex = Mutex::new((1, "text"));
/// let mut number: MappedMutexGuard<'_, i32> = MutexGuard::map(mutex.lock(), |pair| &mut pair.0);
/// *number += 1;
/// drop(number);
/// assert_eq!(*mutex.lock(), (2, "text"));
/// ```
pub type MappedMutexGuard<'a, T> = lock_api::MappedMutexGuard<'a, RawMutex, T>;

/// A lock for one writer or many readers, as
/// [`parking_lot::RwLock`](https://docs.rs/parking_lot/latest/parking_lot/type.RwLock.html). What is
/// said of [`Mutex`] holds for it too.
///
/// Readers do not starve writers: a reader queues behind a writer that waits. So a thread or fiber
/// that reads must not lock it for reading again: if a writer waits in between, the second reader
/// waits for the writer, and the writer for the first reader, for ever.
///
/// ```
/// use socketserver::sync::RwLock;
///
/// let names = RwLock::new(vec!["one"]);
/// assert!(names.try_read().is_some());
/// names.write().push("two");
/// assert_eq!(names.read().len(), 2);
/// ```
pub type RwLock<T> = lock_api::RwLock<RawRwLock, T>;

/// Holds an [`RwLock`] for reading, until it is dropped.
///
/// ```
/// use socketserver::sync::{RwLock, RwLockReadGuard};
///
/// let lock = RwLock::new(1);
/// let guard: RwLockReadGuard<'_, i32> = lock.read();
/// assert!(lock.try_read().is_some() && lock.try_write().is_none());
/// drop(guard);
/// assert!(lock.try_write().is_some());
/// ```
pub type RwLockReadGuard<'a, T> = lock_api::RwLockReadGuard<'a, RawRwLock, T>;

/// Holds an [`RwLock`] for writing, until it is dropped.
///
/// ```
/// use socketserver::sync::{RwLock, RwLockWriteGuard};
///
/// let lock = RwLock::new(1);
/// let mut guard: RwLockWriteGuard<'_, i32> = lock.write();
/// *guard += 1;
/// assert!(lock.try_read().is_none());
/// drop(guard);
/// assert_eq!(*lock.read(), 2);
/// ```
pub type RwLockWriteGuard<'a, T> = lock_api::RwLockWriteGuard<'a, RawRwLock, T>;

/// An [`RwLockReadGuard`] of a part of what the lock protects.
///
/// ```
/// use socketserver::sync::{MappedRwLockReadGuard, RwLock, RwLockReadGuard};
///
/// let lock = RwLock::new((1, "text"));
/// let text: MappedRwLockReadGuard<'_, &str> =
///     RwLockReadGuard::map(lock.read(), |pair| &pair.1);
/// assert_eq!(*text, "text");
/// ```
pub type MappedRwLockReadGuard<'a, T> = lock_api::MappedRwLockReadGuard<'a, RawRwLock, T>;

/// An [`RwLockWriteGuard`] of a part of what the lock protects.
///
/// ```
/// use socketserver::sync::{MappedRwLockWriteGuard, RwLock, RwLockWriteGuard};
///
/// let lock = RwLock::new((1, "text"));
/// let mut number: MappedRwLockWriteGuard<'_, i32> =
///     RwLockWriteGuard::map(lock.write(), |pair| &mut pair.0);
/// *number += 1;
/// drop(number);
/// assert_eq!(lock.read().0, 2);
/// ```
pub type MappedRwLockWriteGuard<'a, T> = lock_api::MappedRwLockWriteGuard<'a, RawRwLock, T>;
