//! [`OutboxWriter`]: the one background thread that writes the outboxes of a server's connections.

use std::fmt;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use parking_lot::Mutex;

use super::{Next, Outbox, wait_for_room};
use crate::net::SharedStream;
use crate::sys::waker::Waker;

/// Starts the thread when the first outbox needs it, and ends it when dropped.
#[derive(Default)]
pub(crate) struct OutboxWriter {
    running: Mutex<Option<Running>>,
}

struct Running {
    /// A forked child has a copy of this, and not the thread.
    process: u32,
    writer: WriterHandle,
    thread: ManuallyDrop<JoinHandle<()>>,
}

/// What outboxes and the thread share.
#[derive(Clone)]
pub(crate) struct WriterHandle {
    shared: Arc<Shared>,
}

struct Shared {
    waker: Waker,
    mailbox: Mutex<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    scheduled: Vec<Arc<Outbox>>,
    /// The thread waits for the waker, and is to be woken.
    sleeps: bool,
    closed: bool,
}

impl OutboxWriter {
    /// The running thread.
    pub(crate) fn start(&self) -> io::Result<WriterHandle> {
        let mut running = self.running.lock();
        let process = process::id();
        if let Some(running) = running.as_ref().filter(|running| running.process == process) {
            return Ok(running.writer.clone());
        }
        let shared = Arc::new(Shared { waker: Waker::new()?, mailbox: Mutex::default() });
        let writer = WriterHandle { shared: shared.clone() };
        let builder = thread::Builder::new().name("sender".to_owned()).stack_size(256 * 1024);
        let thread = ManuallyDrop::new(builder.spawn(move || run(&shared))?);
        *running = Some(Running { process, writer: writer.clone(), thread });
        Ok(writer)
    }
}

/// Ends and joins the thread.
impl Drop for OutboxWriter {
    fn drop(&mut self) {
        let Some(running) = self.running.get_mut().take() else { return };
        if running.process != process::id() {
            return;
        }
        running.writer.shared.mailbox.lock().closed = true;
        running.writer.wake();
        let thread = ManuallyDrop::into_inner(running.thread);
        // A stream may hold the last reference to its server, and be dropped by the thread.
        if thread.thread().id() != thread::current().id() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for OutboxWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OutboxWriter")
    }
}

impl WriterHandle {
    /// Has the thread write an outbox that is not on its list.
    pub(super) fn schedule(&self, outbox: Arc<Outbox>) {
        let mut mailbox = self.shared.mailbox.lock();
        if mailbox.closed {
            return;
        }
        mailbox.scheduled.push(outbox);
        let sleeps = mem::take(&mut mailbox.sleeps);
        // The thread needs the lock as soon as it is awake.
        drop(mailbox);
        if sleeps {
            self.shared.waker.wake();
        }
    }

    /// Has the thread look at its list.
    pub(super) fn wake(&self) {
        let sleeps = mem::take(&mut self.shared.mailbox.lock().sleeps);
        if sleeps {
            self.shared.waker.wake();
        }
    }
}

fn run(shared: &Shared) {
    let mut scheduled = Vec::new();
    let mut blocked: Vec<Arc<Outbox>> = Vec::new();
    loop {
        let mut mailbox = shared.mailbox.lock();
        scheduled.append(&mut mailbox.scheduled);
        if mailbox.closed {
            return;
        }
        let idle = scheduled.is_empty();
        mailbox.sleeps = idle;
        drop(mailbox);
        // Closed before or after `sleeps` was set: this sees it, or the waker wakes.
        blocked.retain(|outbox| !outbox.is_closed());
        if idle || !blocked.is_empty() {
            // If there is something to write, this only polls the blocked streams.
            let deadline = if idle { None } else { Some(Instant::now()) };
            sleep(shared, &mut blocked, &mut scheduled, deadline);
        }
        shared.mailbox.lock().sleeps = false;
        for outbox in mem::take(&mut scheduled) {
            match outbox.stream.upgrade().map_or(Next::Idle, |stream| outbox.write(&stream)) {
                Next::Idle => {}
                Next::Write => scheduled.push(outbox),
                Next::Wait => blocked.push(outbox),
            }
        }
    }
}

/// Waits for the waker and for room, and moves the outboxes that may have room to `scheduled`.
fn sleep(
    shared: &Shared,
    blocked: &mut Vec<Arc<Outbox>>,
    scheduled: &mut Vec<Arc<Outbox>>,
    deadline: Option<Instant>,
) {
    let streams: Vec<Arc<SharedStream>> = {
        let mut streams = Vec::new();
        blocked
            .retain(|outbox| outbox.stream.upgrade().map(|stream| streams.push(stream)).is_some());
        streams
    };
    let polled: Vec<&SharedStream> = streams.iter().map(|stream| &**stream).collect();
    let mut has_room = wait_for_room(&shared.waker, &polled, deadline).into_iter();
    scheduled.extend(blocked.extract_if(.., |_| has_room.next().unwrap_or(true)));
}
