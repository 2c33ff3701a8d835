//! [`Select`]: waiting for the first of several things.
#![allow(private_interfaces, reason = "the trait `Source` is sealed")]

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;
use std::{fmt, io};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::state::ServerHandle;
use crate::sync::channel::Receiver;
use crate::sync::{
    Activity, Current, Input, InputKind, Inputs, Interrupted, Resume, Resumer, Suspend, Waitable,
    poll_inputs, suspends,
};
use crate::sys::waker::Waker;

/// Waits for the first of several things: input on connections, a message in a channel, the stop of
/// a server, or a deadline. A fiber is suspended meanwhile.
///
/// ```no_run
/// use std::io::{BufRead, Write};
/// use std::time::{Duration, Instant};
/// use socketserver::{Connection, HandlerResult, Select};
///
/// /// Carries lines both ways, until one side ends, or the server stops, or nothing comes for a minute.
/// fn handle(client: &mut Connection) -> HandlerResult {
///     let mut upstream = client.connect("10.0.0.5:4000", Duration::from_secs(3))?;
///     let (mut select, mut line) = (Select::new(), Vec::new());
///     loop {
///         let deadline = Instant::now() + Duration::from_secs(60);
///         let (from, to) = match select.wait(&[client, &upstream, client.server()], deadline)? {
///             Some(0) => (&mut *client, &mut upstream),
///             Some(1) => (&mut upstream, &mut *client),
///             _ => return Ok(()),
///         };
///         line.clear();
///         if from.read_line(&mut line)? == 0 {
///             return Ok(());
///         }
///         to.write_all(&line)?;
///     }
/// }
/// ```
///
/// Once it has waited it allocates nothing, for up to 14 sources. On a thread it takes a descriptor
/// (eventfd) when it first has to wait, and keeps it; a fiber needs none.
#[derive(Default)]
pub struct Select {
    /// `None` until a thread waits for the first time.
    waker: Option<Arc<ThreadWaker>>,
    /// The source to look at first.
    next: usize,
}

/// What [`Select::wait`] can wait for; a reference to one is one too. Sealed.
///
/// - A [`Connection`] is ready when a read does not block: there is input, buffered or not, or EOF or an
///   error.
/// - A [`ServerHandle`] is ready when its server is stopping.
/// - A receiver of a channel is ready when there is a message, or the channel is disconnected.
pub trait Source: sealed::Source {}

impl<S: sealed::Source + ?Sized> Source for S {}

mod sealed {
    use super::Kind;

    pub trait Source {
        fn kind(&self) -> Kind<'_>;
    }
}

pub(crate) enum Kind<'a> {
    Connection(&'a Connection),
    Waitable(&'a dyn Waitable),
    /// One that has a descriptor too.
    Signal(&'a dyn Waitable, BorrowedFd<'a>),
}

impl sealed::Source for Connection {
    fn kind(&self) -> Kind<'_> {
        Kind::Connection(self)
    }
}

impl<T> sealed::Source for Receiver<T> {
    fn kind(&self) -> Kind<'_> {
        Kind::Waitable(self)
    }
}

impl sealed::Source for ServerHandle {
    fn kind(&self) -> Kind<'_> {
        // The descriptor is what a thread sees that has no accept loop beside it, as in a forked child.
        Kind::Signal(&**self.state(), self.state().shutdown_signal())
    }
}

impl<S: sealed::Source + ?Sized> sealed::Source for &S {
    fn kind(&self) -> Kind<'_> {
        (**self).kind()
    }
}

impl<S: sealed::Source + ?Sized> sealed::Source for &mut S {
    fn kind(&self) -> Kind<'_> {
        (**self).kind()
    }
}

struct ThreadWaker(Waker);

impl Resume for ThreadWaker {
    fn resume(&self, _number: u64) {
        self.0.wake();
    }
}

impl Select {
    /// One that has waited for nothing yet.
    pub fn new() -> Select {
        Select::default()
    }

    /// Waits until one of the sources is ready, and returns its index; `None` if none is ready at the
    /// `deadline` (without one it waits for ever). A deadline that is over is a look without waiting.
    ///
    /// What is ready stays ready until it is read, received or closed: it is returned again. Of several
    /// sources that are ready, they take turns. Before it waits, the buffered output of the connections
    /// is sent. With no sources it waits for the deadline.
    ///
    /// At a stop a client's connection is ready, because its input ends, and so is its
    /// [server](Connection::server).
    ///
    /// # Errors
    /// [`Error::Stopped`] when a stop of the server is out of time, whatever is ready; [`Error::Timeout`]
    /// at the end of a [`Connection::within`]; [`Error::Io`] if output could not be sent;
    /// [`Error::System`] if there is no descriptor left for a thread to wait with.
    pub fn wait(
        &mut self,
        sources: &[&dyn Source],
        deadline: impl Into<Option<Instant>>,
    ) -> Result<Option<usize>> {
        let current = Current::get();
        if current.is_interrupted() {
            return Err(Error::Stopped);
        }
        let deadline = deadline.into();
        let sources = Sources { all: sources, first: self.next, ready: Cell::new(0) };
        sources.yield_now();
        let found = match suspends().filter(|(suspend, _)| sources.are_known_to(&**suspend)) {
            Some((suspend, resumer)) => {
                suspend.look_for(&sources).map_err(failed())?;
                match sources.find(false) {
                    None => sources.wait(&current, deadline, &resumer, |until| {
                        suspend.suspend_for(&sources, until)
                    })?,
                    found => found,
                }
            }
            // A thread; or a fiber with a connection that is not of its worker.
            None => {
                poll_inputs(&sources, [], Some(Instant::now())).map_err(failed())?;
                match sources.find(false) {
                    None => {
                        let waker = self.waker()?;
                        let resumer = Resumer { resume: waker.clone(), number: 0 };
                        sources.wait(&current, deadline, &resumer, |until| {
                            poll_inputs(&sources, [waker.0.as_fd()], until)?;
                            waker.0.clear();
                            Ok(())
                        })?
                    }
                    found => found,
                }
            }
        };
        Ok(found.inspect(|index| self.next = index + 1))
    }

    fn waker(&mut self) -> Result<Arc<ThreadWaker>> {
        if let Some(waker) = &self.waker {
            return Ok(waker.clone());
        }
        let waker = Arc::new(ThreadWaker(Waker::new().map_err(failed())?));
        Ok(self.waker.insert(waker).clone())
    }
}

fn failed() -> impl FnOnce(io::Error) -> Error {
    Error::system("wait for several sources")
}

impl fmt::Debug for Select {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Select")
    }
}

/// The sources of one wait.
struct Sources<'a> {
    all: &'a [&'a dyn Source],
    /// The first one to look at.
    first: usize,
    /// Those that poll(2) has found ready, by the bits of their indices.
    ready: Cell<u64>,
}

impl Sources<'_> {
    fn connections(&self) -> impl Iterator<Item = &Connection> {
        self.all.iter().filter_map(|source| match source.kind() {
            Kind::Connection(connection) => Some(connection),
            _ => None,
        })
    }

    /// Lets others run first when it is their turn: without a wait nothing else would.
    fn yield_now(&self) {
        if let Some(connection) = self.connections().next() {
            connection.shared_stream().yield_now();
        }
    }

    /// Whether what suspends this code is woken by all connections.
    fn are_known_to(&self, suspend: &dyn Suspend) -> bool {
        (0..self.all.len()).filter_map(|index| self.input(index)).all(|input| match input.kind {
            InputKind::Stream(number) => suspend.can_wait_for(number),
            InputKind::Signal => true,
        })
    }

    /// The first that is ready. `is_last`: there is no wait after this in which a missing event
    /// would come.
    fn find(&self, is_last: bool) -> Option<usize> {
        let count = self.all.len();
        let mut order = (0..count).map(|offset| (self.first + offset) % count);
        order.find(|index| self.is_ready(*index, is_last))
    }

    fn is_ready(&self, index: usize, is_last: bool) -> bool {
        match self.all[index].kind() {
            _ if self.was_polled(index) => true,
            Kind::Connection(connection) => {
                // What a thread polls is polled in any case.
                let skips_poll = !is_last && index < u64::BITS as usize;
                connection.has_input(is_last, skips_poll)
            }
            Kind::Waitable(waitable) | Kind::Signal(waitable, _) => waitable.is_ready(),
        }
    }

    fn was_polled(&self, index: usize) -> bool {
        index < u64::BITS as usize && self.ready.get() & 1 << index != 0
    }

    /// Waits for the first, or the deadline, or until it is interrupted.
    fn wait(
        &self,
        current: &Arc<Current>,
        deadline: Option<Instant>,
        resumer: &Resumer,
        sleep: impl Fn(Option<Instant>) -> io::Result<()>,
    ) -> Result<Option<usize>> {
        self.connections().try_for_each(Connection::flush_shared)?;
        let (deadline, at_deadline) = current.earlier(deadline);
        let look = || {
            if current.is_interrupted() {
                return Some(Err(Error::Stopped));
            }
            let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
            match (self.find(is_over), at_deadline) {
                (None, _) if !is_over => None,
                (None, Interrupted::TimedOut) => Some(Ok(None)),
                (None, limit) => Some(Err(limit.into())),
                (found, _) => Some(Ok(found)),
            }
        };
        let sleep = || {
            self.ready.set(0);
            sleep(deadline).map_err(failed())
        };
        let _added = Added::to(self, current);
        current.doing(Activity::Waiting, || current.wait_with(resumer, look, sleep))
    }
}

impl Inputs for Sources<'_> {
    fn len(&self) -> usize {
        self.all.len()
    }

    fn input(&self, index: usize) -> Option<Input<'_>> {
        match self.all[index].kind() {
            Kind::Connection(connection) => connection.shared_stream().input(),
            Kind::Waitable(_) => None,
            Kind::Signal(_, fd) => Some(Input { fd, kind: InputKind::Signal }),
        }
    }

    fn set_ready(&self, index: usize, is_sure: bool) {
        let mut is_sure = is_sure;
        if let Kind::Connection(connection) = self.all[index].kind() {
            let stream = connection.shared_stream();
            stream.set_readable();
            is_sure = is_sure && stream.has_input_beyond_fd().unwrap_or(true);
        }
        if is_sure && index < u64::BITS as usize {
            self.ready.set(self.ready.get() | 1 << index);
        }
    }
}

/// This waiter at the sources that unpark it.
struct Added<'a> {
    sources: &'a Sources<'a>,
    waiter: &'a Arc<Current>,
}

impl<'a> Added<'a> {
    fn to(sources: &'a Sources<'a>, waiter: &'a Arc<Current>) -> Added<'a> {
        let added = Added { sources, waiter };
        added.each(|waitable| waitable.add_waiter(waiter));
        added
    }

    fn each(&self, call: impl Fn(&dyn Waitable)) {
        for source in self.sources.all {
            if let Kind::Waitable(waitable) | Kind::Signal(waitable, _) = source.kind() {
                call(waitable);
            }
        }
    }
}

impl Drop for Added<'_> {
    fn drop(&mut self) {
        self.each(|waitable| waitable.remove_waiter(self.waiter));
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::extend::Mixin;
    use crate::{Sequential, TcpServer, Threading, handler_fn};

    /// Messages without contents, as those of a channel.
    #[derive(Default)]
    struct Messages {
        count: AtomicUsize,
        waiters: Mutex<Vec<Arc<Current>>>,
    }

    impl Messages {
        fn send(&self) {
            self.count.fetch_add(1, Ordering::SeqCst);
            self.waiters.lock().iter().for_each(|waiter| waiter.unpark());
        }

        fn receive(&self) {
            self.count.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Waitable for Messages {
        fn is_ready(&self) -> bool {
            self.count.load(Ordering::SeqCst) > 0
        }

        fn add_waiter(&self, waiter: &Arc<Current>) {
            self.waiters.lock().push(waiter.clone());
        }

        fn remove_waiter(&self, waiter: &Arc<Current>) {
            let mut waiters = self.waiters.lock();
            let position = waiters.iter().position(|other| Arc::ptr_eq(other, waiter)).unwrap();
            waiters.swap_remove(position);
        }
    }

    impl sealed::Source for Messages {
        fn kind(&self) -> Kind<'_> {
            Kind::Waitable(self)
        }
    }

    /// A message or a line, each sent after the last one was received.
    fn receives_messages_and_lines(mixin: Box<dyn Mixin>) {
        const ROUNDS: usize = 2000;
        let messages = Arc::new(Messages::default());
        let handler = {
            let messages = messages.clone();
            handler_fn(move |connection| {
                let (mut select, mut line) = (Select::new(), String::new());
                let late = Instant::now() + Duration::from_secs(30);
                loop {
                    let answer = match select.wait(&[&*messages, &*connection], late)? {
                        Some(0) => {
                            messages.receive();
                            "message"
                        }
                        Some(_) if connection.read_line(&mut line)? > 0 => "line",
                        Some(_) => return Ok(()),
                        None => return Err("late".into()),
                    };
                    writeln!(connection, "{answer}")?;
                }
            })
        };
        let server = TcpServer::builder().mixin(mixin).bind("127.0.0.1:0", handler).unwrap();
        let handle = server.handle();
        let address = server.local_addr().socket_addr().unwrap();
        let thread = thread::spawn(move || server.serve_forever());
        let mut client = BufReader::new(TcpStream::connect(address).unwrap());
        let mut answer = String::new();
        for round in 0..ROUNDS {
            let expected = if round % 3 == 0 {
                client.get_mut().write_all(b"line\n").unwrap();
                "line\n"
            } else {
                messages.send();
                "message\n"
            };
            answer.clear();
            client.read_line(&mut answer).unwrap();
            assert_eq!(answer, expected, "{round}");
        }
        drop(client);
        handle.shutdown();
        thread.join().unwrap().unwrap();
        assert!(messages.waiters.lock().is_empty());
    }

    #[test]
    fn no_message_is_missed() {
        receives_messages_and_lines(Box::new(Sequential));
        receives_messages_and_lines(Box::new(Threading::new()));
        #[cfg(feature = "fibers")]
        receives_messages_and_lines(Box::new(crate::Fibers::new().workers(1)));
    }

    #[test]
    fn a_busy_source_does_not_hide_another() {
        let messages = Messages::default();
        messages.send();
        let connection = Connection::in_memory("input");
        let mut select = Select::new();
        let sources: [&dyn Source; 2] = [&messages, connection.as_ref()];
        let found = [(); 4].map(|()| select.wait(&sources, None).unwrap());
        assert_eq!(found, [Some(0), Some(1), Some(0), Some(1)]);
    }
}
