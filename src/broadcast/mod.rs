//! One message to many connections: [`Broadcast`].

mod log;
mod writer;

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::net::SharedStream;
use crate::sys::waker::Waker;
use log::Chunk;
use writer::Writer;

/// One message to many connections, without waiting for any of them.
///
/// A handler [`join`](Broadcast::join)s its connection, and from then on the connection gets every
/// message that anybody sends, in the same order as all others, each message whole; also while the
/// handler waits for its client, or writes to it itself: what it writes in one call stays whole
/// too. Dropping the [`Member`] leaves.
///
/// Messages are kept once for all members, until each has got them. A member that takes them
/// slower than they come falls behind, delaying nobody; when it is behind by more than
/// [`capacity`](Broadcast::with_capacity) bytes it is disconnected, and counted in
/// [`slow_members`](Broadcast::slow_members). So memory is bounded by about twice that capacity,
/// and for each member one unfinished message, and 16 bytes for each message of its own that it is
/// behind of.
///
/// Clones are the same broadcast.
///
/// ```
/// use socketserver::{Broadcast, Connection, HandlerResult, StreamRequestHandler};
///
/// /// What one client types, all others see.
/// struct Party(Broadcast);
///
/// impl StreamRequestHandler for Party {
///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
///         let member = self.0.join(connection)?;
///         let mut line = Vec::new();
///         while connection.read_line(&mut line)? > 0 {
///             member.send_to_others(&*line);
///             line.clear();
///         }
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone)]
pub struct Broadcast {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Where senders leave what the flusher takes: the only thing they share, and never locked while
/// anything is written to a socket.
struct Shared {
    capacity: usize,
    /// Made when the first member joins.
    waker: OnceLock<Waker>,
    mailbox: Mutex<Mailbox>,
    /// The flusher has taken, or dealt with, what was in the inbox.
    progress: Condvar,
}

#[derive(Default)]
struct Mailbox {
    batch: Batch,
    /// The position behind the last message in it.
    end: u64,
    /// How often the flusher has taken what was there, and how often it has dealt with it.
    batches_taken: u64,
    batches_written: u64,
    members: usize,
    next_member: u64,
    slow_members: u64,
    writer_sleeps: bool,
    closed: bool,
}

/// What the flusher takes at a time.
#[derive(Default)]
struct Batch {
    chunks: Vec<Chunk>,
    events: Vec<Event>,
}

/// What happens to members, each at its position in the log.
enum Event {
    Join(u64, Arc<SharedStream>, u64),
    /// It does not get this.
    Own(u64, Range<u64>),
    Leave(u64, u64),
}

impl Default for Broadcast {
    fn default() -> Broadcast {
        Broadcast::new()
    }
}

impl Broadcast {
    /// A broadcast without members, with a capacity of 4 MiB.
    pub fn new() -> Broadcast {
        Broadcast::with_capacity(4 * 1024 * 1024)
    }

    /// How far a member may be behind, in bytes of messages, before it is disconnected.
    pub fn with_capacity(bytes: usize) -> Broadcast {
        let shared = Arc::new(Shared {
            capacity: bytes,
            waker: OnceLock::new(),
            mailbox: Mutex::default(),
            progress: Condvar::new(),
        });
        Broadcast { inner: Arc::new(Inner { shared, thread: Mutex::default() }) }
    }

    /// Makes a connection a member: it gets all that is sent from now on. What the handler has
    /// written to it so far is sent first.
    ///
    /// The first to join starts the thread that sends.
    ///
    /// # Errors
    /// When the connection is broken, or the thread cannot be started.
    pub fn join(&self, connection: &mut Connection) -> Result<Member> {
        let sent = connection.flush().and_then(|()| connection.shared_stream().check());
        sent.map_err(Error::system("write to a joining member"))?;
        self.inner.start().map_err(Error::system("start the thread of a broadcast"))?;
        let mut mailbox = self.inner.shared.mailbox.lock();
        mailbox.next_member += 1;
        mailbox.members += 1;
        let id = mailbox.next_member;
        let event = Event::Join(id, connection.shared_stream().clone(), mailbox.end);
        self.inner.shared.push_event(&mut mailbox, event);
        Ok(Member { inner: self.inner.clone(), stream: connection.shared_stream().clone(), id })
    }

    /// Sends a message to all members.
    ///
    /// Waits for no member. Where messages come faster than the processor can pass them on, it
    /// waits for the sending thread to take those that are there, at most for one round of sending
    /// that never waits itself.
    pub fn send(&self, message: impl AsRef<[u8]>) {
        self.inner.shared.send(message.as_ref(), None);
    }

    /// Sends a message to all members but the one of this number ([`Member::id`]), or to all where
    /// nobody has it (any more); otherwise as [`send`](Broadcast::send).
    pub fn send_except(&self, member: u64, message: impl AsRef<[u8]>) {
        self.inner.shared.send(message.as_ref(), Some(member));
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.inner.shared.mailbox.lock().members
    }

    /// How many members have been disconnected because they fell too far behind.
    pub fn slow_members(&self) -> u64 {
        self.inner.shared.mailbox.lock().slow_members
    }
}

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast")
            .field("members", &self.members())
            .field("slow_members", &self.slow_members())
            .finish_non_exhaustive()
    }
}

/// A connection's membership of a [`Broadcast`], which ends when this is dropped.
#[must_use = "dropping it leaves the broadcast"]
pub struct Member {
    inner: Arc<Inner>,
    stream: Arc<SharedStream>,
    id: u64,
}

impl Member {
    /// Sends a message to all members but this one, as [`Broadcast::send_except`].
    pub fn send_to_others(&self, message: impl AsRef<[u8]>) {
        self.inner.shared.send(message.as_ref(), Some(self.id));
    }

    /// This member's number within its broadcast; no other ever has it.
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Leaving: what was sent before has then been delivered, as far as the client has taken it.
impl Drop for Member {
    fn drop(&mut self) {
        let shared = &self.inner.shared;
        let mut mailbox = shared.mailbox.lock();
        mailbox.members -= 1;
        let event = Event::Leave(self.id, mailbox.end);
        shared.push_event(&mut mailbox, event);
        let batch = mailbox.batches_taken + 1;
        while mailbox.batches_written < batch {
            if self.stream.uses_wait() {
                // Where many leave at a time, a round for each would take long.
                MutexGuard::unlocked(&mut mailbox, || self.stream.sleep(BATCH_WAIT));
            } else {
                shared.progress.wait(&mut mailbox);
            }
        }
    }
}

/// For how long others get their turn while a member waits for a round of sending.
const BATCH_WAIT: Duration = Duration::from_millis(1);

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Member({})", self.id)
    }
}

impl Inner {
    fn start(&self) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            if self.shared.waker.get().is_none() {
                let _ = self.shared.waker.set(Waker::new()?);
            }
            let writer = Writer::new(self.shared.clone());
            let builder = thread::Builder::new().name("broadcast".to_owned());
            *thread = Some(builder.stack_size(256 * 1024).spawn(move || writer.run())?);
        }
        Ok(())
    }
}

/// When nobody holds the broadcast any more, its thread ends.
impl Drop for Inner {
    fn drop(&mut self) {
        let Some(thread) = self.thread.get_mut().take() else { return };
        let mut mailbox = self.shared.mailbox.lock();
        mailbox.closed = true;
        self.shared.wake(&mut mailbox);
        drop(mailbox);
        let _ = thread.join();
    }
}

impl Shared {
    fn send(&self, message: &[u8], except: Option<u64>) {
        if message.is_empty() {
            return;
        }
        let mut mailbox = self.mailbox.lock();
        if mailbox.members == 0 {
            return;
        }
        while mailbox.is_full(self.capacity) {
            self.progress.wait(&mut mailbox);
        }
        let start = mailbox.end;
        mailbox.end = log::append(&mut mailbox.batch.chunks, start, message);
        if let Some(member) = except {
            let own = start..mailbox.end;
            mailbox.batch.events.push(Event::Own(member, own));
        }
        let wakes = std::mem::take(&mut mailbox.writer_sleeps);
        // The flusher needs the lock as soon as it is awake.
        drop(mailbox);
        if wakes {
            self.wake_writer();
        }
    }

    fn push_event(&self, mailbox: &mut Mailbox, event: Event) {
        mailbox.batch.events.push(event);
        self.wake(mailbox);
    }

    fn wake(&self, mailbox: &mut Mailbox) {
        if std::mem::take(&mut mailbox.writer_sleeps) {
            self.wake_writer();
        }
    }

    fn wake_writer(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }
}

impl Mailbox {
    fn is_empty(&self) -> bool {
        self.batch.chunks.is_empty() && self.batch.events.is_empty()
    }

    /// Whether it holds more than so many bytes of messages.
    fn is_full(&self, capacity: usize) -> bool {
        self.batch.chunks.first().is_some_and(|first| self.end - first.start() > capacity as u64)
    }

    fn take(&mut self) -> Batch {
        self.batches_taken += 1;
        std::mem::take(&mut self.batch)
    }
}
