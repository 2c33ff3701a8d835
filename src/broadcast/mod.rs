//! One message to many connections: [`Broadcast`].

mod writer;

use std::fmt;
use std::io::{self, Write};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::id::MemberId;
use crate::net::SharedStream;
use crate::net::outbox::log::{self, Chunk};
use crate::sync::Current;
use crate::sys::waker::Waker;
use writer::Writer;

/// Sends messages to many connections without waiting for any of them.
///
/// A handler [`join`](Broadcast::join)s its connection. From then on a background thread sends
/// every message to that connection, in the same order to all members, also while the handler
/// waits or writes. Neither a message nor what the handler writes in one call is split by the
/// other. [`Member::leave`] ends that.
///
/// A message is stored once for all members, until all have received it. A slow member delays no
/// other. When it is behind by more than [`capacity`](Broadcast::with_capacity) bytes it is
/// disconnected and counted in [`slow_members`](Broadcast::slow_members). So the memory is bounded
/// by about twice the capacity; and for each member by one partly sent message and 16 bytes per
/// pending message that it does not receive because it sent it.
///
/// Clones share the members.
///
/// ```
/// use socketserver::{Broadcast, Connection, HandlerResult, StreamRequestHandler};
///
/// /// Sends each line of a client to all other clients.
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
///         member.leave();
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

/// What senders, members and the writer share.
struct Shared {
    capacity: usize,
    /// Wakes the writer. Created when the first member joins.
    waker: OnceLock<Waker>,
    /// Never locked during a write to a socket.
    mailbox: Mutex<Mailbox>,
    /// Notified when the writer has taken a batch from a full mailbox.
    progress: Condvar,
}

/// What senders and members have left for the writer.
#[derive(Default)]
struct Mailbox {
    batch: Batch,
    /// The position after the last message.
    end: u64,
    batches_taken: u64,
    batches_written: u64,
    /// Unparked when a batch is written.
    leaving: Vec<Arc<Current>>,
    members: usize,
    last_member: u64,
    slow_members: u64,
    /// The writer waits for `waker`, and is to be woken.
    writer_sleeps: bool,
    closed: bool,
}

/// The contents of the mailbox, which the writer takes at once.
#[derive(Default)]
struct Batch {
    chunks: Vec<Chunk>,
    events: Vec<Event>,
}

/// A change of one member (the first field).
enum Event {
    /// Receives the messages from this position on.
    Join(MemberId, Arc<SharedStream>, u64),
    /// Does not receive this message.
    Skip(MemberId, Range<u64>),
    /// Receives the messages up to this position.
    Leave(MemberId, u64),
}

impl Default for Broadcast {
    fn default() -> Broadcast {
        Broadcast::new()
    }
}

impl Broadcast {
    /// Creates a broadcast without members and with a capacity of 4 MiB.
    pub fn new() -> Broadcast {
        Broadcast::with_capacity(4 * 1024 * 1024)
    }

    /// Creates a broadcast that disconnects a member when it is behind by more than this many bytes
    /// of messages. With zero, a member must take every message at once.
    pub fn with_capacity(bytes: usize) -> Broadcast {
        let shared = Arc::new(Shared {
            capacity: bytes,
            waker: OnceLock::new(),
            mailbox: Mutex::default(),
            progress: Condvar::new(),
        });
        Broadcast { inner: Arc::new(Inner { shared, thread: Mutex::default() }) }
    }

    /// Makes a connection a member: it receives all messages sent from now on. The handler's
    /// output so far is sent first.
    ///
    /// The first call starts the background thread.
    ///
    /// # Errors
    /// When the connection is broken, or the thread cannot be started.
    pub fn join(&self, connection: &mut Connection) -> Result<Member> {
        let sent = connection.flush().and_then(|()| connection.shared_stream().check());
        sent.map_err(Error::system("write to a joining member"))?;
        self.inner.start().map_err(Error::system("start the thread of a broadcast"))?;
        Ok(self.add_member(connection.shared_stream()))
    }

    fn add_member(&self, stream: &Arc<SharedStream>) -> Member {
        let mut mailbox = self.inner.shared.mailbox.lock();
        mailbox.last_member += 1;
        mailbox.members += 1;
        let id = MemberId::from(mailbox.last_member);
        let event = Event::Join(id, stream.clone(), mailbox.end);
        self.inner.shared.push_event(&mut mailbox, event);
        Member { inner: self.inner.clone(), id, has_left: false }
    }

    /// Sends a message to all members.
    ///
    /// This does not wait for members. When more than the capacity is queued, it waits until the
    /// background thread, which itself never blocks on a member, has taken the queue.
    pub fn send(&self, message: impl AsRef<[u8]>) {
        self.inner.shared.send(message.as_ref(), None);
    }

    /// Sends a message to all members but one, given by its [`Member::id`]. If that one has left,
    /// this is [`send`](Broadcast::send).
    pub fn send_except(&self, member: MemberId, message: impl AsRef<[u8]>) {
        self.inner.shared.send(message.as_ref(), Some(member));
    }

    /// The number of members.
    pub fn members(&self) -> usize {
        self.inner.shared.mailbox.lock().members
    }

    /// The number of members disconnected so far because they were too far behind.
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

/// A connection's membership in a [`Broadcast`]. Dropping it leaves without waiting; see
/// [`leave`](Member::leave).
#[must_use = "dropping it leaves the broadcast"]
pub struct Member {
    inner: Arc<Inner>,
    id: MemberId,
    has_left: bool,
}

impl Member {
    /// Sends a message to all other members: [`Broadcast::send_except`].
    pub fn send_to_others(&self, message: impl AsRef<[u8]>) {
        self.inner.shared.send(message.as_ref(), Some(self.id));
    }

    /// The member's number, unique within its broadcast.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Leaves, and waits until the messages sent before are written to the connection, as far as
    /// it has room for them: never for the client. What the handler writes afterwards follows them.
    ///
    /// After a drop instead, they are written in the background, before or after the handler's
    /// output; those that are not when the connection is closed with unread input, or when the
    /// process exits, are lost.
    pub fn leave(mut self) {
        let batch = self.push_leave();
        let current = Current::get();
        while self.inner.shared.has_to_wait_for(batch, &current) {
            current.park_uninterrupted(None);
        }
    }

    /// Returns the number of the batch that the event is in.
    fn push_leave(&mut self) -> u64 {
        self.has_left = true;
        let shared = &self.inner.shared;
        let mut mailbox = shared.mailbox.lock();
        mailbox.members -= 1;
        let event = Event::Leave(self.id, mailbox.end);
        shared.push_event(&mut mailbox, event);
        mailbox.batches_taken + 1
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.has_left {
            self.push_leave();
        }
    }
}

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

/// Ends and joins the writer's thread.
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
    fn send(&self, message: &[u8], except: Option<MemberId>) {
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
            let range = start..mailbox.end;
            mailbox.batch.events.push(Event::Skip(member, range));
        }
        let writer_sleeps = std::mem::take(&mut mailbox.writer_sleeps);
        // The writer needs the lock as soon as it is awake.
        drop(mailbox);
        if writer_sleeps {
            self.wake_writer();
        }
    }

    /// Whether the batch is not written yet. If so, `current` is unparked when one is.
    fn has_to_wait_for(&self, batch: u64, current: &Arc<Current>) -> bool {
        let mut mailbox = self.mailbox.lock();
        let has_to_wait = mailbox.batches_written < batch;
        if has_to_wait {
            mailbox.leaving.push(current.clone());
        }
        has_to_wait
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

    /// Whether there are more than `capacity` bytes of messages.
    fn is_full(&self, capacity: usize) -> bool {
        self.batch.chunks.first().is_some_and(|first| self.end - first.start() > capacity as u64)
    }

    fn take(&mut self) -> Batch {
        self.batches_taken += 1;
        std::mem::take(&mut self.batch)
    }
}
