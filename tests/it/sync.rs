//! What handlers wait for besides their client: locks, condition variables, semaphores, channels. The
//! same under threads and under fibers.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socketserver::extend::Spawnable;
use socketserver::sync::channel::{self, RecvTimeoutError, SendTimeoutError, bounded, unbounded};
use socketserver::sync::{Activity, Condvar, Mutex, MutexGuard, RwLock, Semaphore};
use socketserver::*;

use crate::support::clients::{ask, line_of, tcp};
use crate::support::servers::{answers, serve_with};
use crate::support::system::raise_descriptor_limit;
use crate::support::{Gate, TIMEOUT, bound_test, next, wait_until};

/// Long enough to notice a wait, short enough to wait for its end.
const SHORT: Duration = Duration::from_millis(60);

/// Threads, and fibers on one worker, where one that blocks its thread keeps all others from running.
fn mixins() -> Vec<Box<dyn Spawnable>> {
    vec![Box::new(Threading::new()), Box::new(Fibers::new().workers(1))]
}

fn on_each_mixin<H: StreamRequestHandler>(handler: impl Fn() -> H, test: impl Fn(RunningServer)) {
    for mixin in mixins() {
        test(serve_with(TcpServer::builder().mixin(mixin), handler()));
    }
}

/// How many handlers of this server are doing this.
fn doing(server: &RunningServer, activity: Activity) -> usize {
    server.connections().iter().filter(|connection| connection.activity == activity).count()
}

// Locks.

#[test]
fn a_mutex_is_held_across_a_read_and_the_others_wait_for_it() {
    let handler = || {
        let lines = Mutex::new(Vec::new());
        handler_fn(move |connection| {
            let mut lines = lines.lock();
            connection.write_all(b"locked\n")?;
            let mut line = String::new();
            connection.read_line(&mut line)?;
            lines.push(line.trim_end().to_owned());
            Ok(writeln!(connection, "{}", lines.join(" "))?)
        })
    };
    on_each_mixin(handler, |server| {
        let first = tcp(server.local_addr());
        assert_eq!(line_of(&first), "locked");
        let second = tcp(server.local_addr());
        wait_until("the second waits", || doing(&server, Activity::Locking) == 1);
        assert_eq!(ask(&first, "one"), "one");
        assert_eq!(line_of(&second), "locked");
        assert_eq!(ask(&second, "two"), "one two");
        assert!(server.stop(TIMEOUT).is_clean());
    });
}

/// Each of many clients takes the one mutex a few times, and its handler reads from it while it has
/// it. Returns how long each of them waited for its turn.
fn contend(mixin: Box<dyn Spawnable>, clients: usize, rounds: usize) -> Vec<Duration> {
    raise_descriptor_limit();
    let (sender, waits) = mpsc::channel();
    let state = Mutex::new((0_u64, sender));
    let holders = AtomicUsize::new(0);
    let handler = handler_fn(move |connection| {
        let mut line = String::new();
        while connection.read_line(&mut line)? > 0 {
            let begin = Instant::now();
            let mut state = state.lock();
            let wait = begin.elapsed();
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
            connection.write_all(b"locked\n")?;
            line.clear();
            connection.read_line(&mut line)?;
            line.clear();
            state.0 += 1;
            let _ = state.1.send(wait);
            holders.fetch_sub(1, Ordering::SeqCst);
            drop(state);
            connection.write_all(b"unlocked\n")?;
        }
        Ok(())
    });
    let server = serve_with(TcpServer::builder().mixin(mixin).backlog(2000), handler);
    let address = server.local_addr().clone();
    let drive = move || {
        let stream = tcp(&address);
        for _ in 0..rounds {
            assert_eq!(ask(&stream, "lock"), "locked");
            assert_eq!(ask(&stream, "unlock"), "unlocked");
        }
    };
    let spawn = |_| thread::Builder::new().stack_size(128 * 1024).spawn(drive.clone()).unwrap();
    let threads: Vec<_> = (0..clients).map(spawn).collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(server.stop(TIMEOUT).is_clean());
    waits.try_iter().collect()
}

fn all_make_progress(mixin: Box<dyn Spawnable>, clients: usize) {
    const ROUNDS: usize = 3;
    bound_test();
    let begin = Instant::now();
    let mut waits = contend(mixin, clients, ROUNDS);
    assert_eq!(waits.len(), clients * ROUNDS);
    waits.sort_unstable();
    let p99 = waits[waits.len() * 99 / 100];
    eprintln!(
        "{clients} clients: {:?}, median {:?}, p99 {p99:?}, most {:?}",
        begin.elapsed(),
        waits[waits.len() / 2],
        waits[waits.len() - 1]
    );
}

#[test]
fn a_thousand_fibers_on_two_workers_take_turns_with_one_mutex() {
    all_make_progress(Box::new(Fibers::new().workers(2)), 1000);
}

#[test]
fn two_hundred_threads_take_turns_with_one_mutex() {
    all_make_progress(Box::new(Threading::new()), 200);
}

#[test]
fn a_try_lock_for_ends_at_its_timeout() {
    let handler = || {
        let (mutex, lock) = (Mutex::new(()), RwLock::new(()));
        answers(move |line, connection| {
            if line == "hold" {
                let _guards = (mutex.lock(), lock.write());
                connection.write_all(b"held\n")?;
                connection.read_line(&mut String::new())?;
                return Ok(());
            }
            let begin = Instant::now();
            let is_none = mutex.try_lock_for(SHORT).is_none()
                && lock.try_read_for(SHORT).is_none()
                && lock.try_write_for(SHORT).is_none()
                && mutex.try_lock().is_none();
            let all_waited = begin.elapsed() >= 3 * SHORT;
            Ok(writeln!(connection, "{is_none} {all_waited}")?)
        })
    };
    on_each_mixin(handler, |server| {
        let mut holder = tcp(server.local_addr());
        assert_eq!(ask(&holder, "hold"), "held");
        let other = tcp(server.local_addr());
        assert_eq!(ask(&other, "try"), "true true");
        holder.write_all(b"release\n").unwrap();
        wait_until("it is released", || ask(&other, "try").starts_with("false"));
        assert!(server.stop(TIMEOUT).is_clean());
    });
}

#[test]
fn a_waiter_gets_the_mutex_although_others_take_it_again_and_again() {
    bound_test();
    let mutex = Arc::new(Mutex::new(()));
    let done = Gate::default();
    let greedy: Vec<_> = (0..2)
        .map(|_| {
            let (mutex, done) = (mutex.clone(), done.clone());
            thread::spawn(move || {
                while !done.is_open() {
                    let _guard = mutex.lock();
                    thread::sleep(Duration::from_micros(100));
                }
            })
        })
        .collect();
    for _ in 0..50 {
        drop(mutex.lock());
        thread::sleep(Duration::from_micros(50));
    }
    done.open();
    greedy.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_writer_gets_in_although_there_are_always_readers() {
    bound_test();
    let lock = Arc::new(RwLock::new(0));
    let done = Gate::default();
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (lock, done) = (lock.clone(), done.clone());
            thread::spawn(move || {
                while !done.is_open() {
                    let _guard = lock.read();
                    thread::sleep(Duration::from_micros(500));
                }
            })
        })
        .collect();
    for _ in 0..20 {
        *lock.write() += 1;
    }
    done.open();
    readers.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(*lock.read(), 20);
}

#[test]
#[cfg(debug_assertions)]
fn a_mutex_that_is_locked_twice_by_the_same_handler_panics() {
    let handler = || {
        let mutex = Mutex::new(());
        answers(move |line, connection| {
            let mut guard = mutex.lock();
            if line == "twice" {
                drop(mutex.lock());
            }
            // This is not the second lock of one that holds it.
            MutexGuard::unlocked(&mut guard, || drop(mutex.lock()));
            Ok(connection.write_all(b"once\n")?)
        })
    };
    on_each_mixin(handler, |server| {
        let client = tcp(server.local_addr());
        assert_eq!(ask(&client, "once"), "once");
        assert_eq!(ask(&client, "twice"), "");
        wait_until("it has panicked", || server.stats().panicked == 1);
        // The mutex is free again, and not poisoned.
        assert_eq!(ask(&tcp(server.local_addr()), "once"), "once");
        assert!(server.stop(TIMEOUT).is_clean());
    });
}

// Condition variables, semaphores, channels.

#[test]
fn a_condition_variable_connects_handlers() {
    let handler = || {
        let (lines, arrived) = (Mutex::new(Vec::<String>::new()), Condvar::new());
        answers(move |line, connection| {
            let mut lines = lines.lock();
            if line == "take" {
                arrived.wait_while(&mut lines, |lines| lines.is_empty())?;
                let line = lines.remove(0);
                return Ok(writeln!(connection, "{line}")?);
            }
            let timed_out = line == "none"
                && arrived.wait_while_for(&mut lines, |lines| lines.is_empty(), SHORT)?.timed_out();
            if !timed_out {
                lines.push(line.to_owned());
                arrived.notify_one();
            }
            Ok(writeln!(connection, "{timed_out}")?)
        })
    };
    on_each_mixin(handler, |server| {
        let (mut taker, giver) = (tcp(server.local_addr()), tcp(server.local_addr()));
        assert_eq!(ask(&giver, "none"), "true");
        taker.write_all(b"take\n").unwrap();
        wait_until("it waits", || doing(&server, Activity::Waiting) == 1);
        assert_eq!(ask(&giver, "a line"), "false");
        assert_eq!(line_of(&taker), "a line");
        assert!(server.stop(TIMEOUT).is_clean());
    });
}

#[test]
fn waiters_get_permits_in_the_order_in_which_they_came() {
    let handler = || {
        let semaphore = Semaphore::new(1);
        let order = Mutex::new(Vec::new());
        answers(move |line, connection| {
            if line == "order" {
                return Ok(writeln!(connection, "{}", order.lock().join(" "))?);
            }
            if semaphore.acquire_timeout(Duration::ZERO)?.is_none() && line == "try" {
                return Ok(connection.write_all(b"none\n")?);
            }
            let _permit = semaphore.acquire()?;
            order.lock().push(line.to_owned());
            connection.write_all(b"got it\n")?;
            connection.read_line(&mut String::new())?;
            Ok(connection.write_all(b"done\n")?)
        })
    };
    on_each_mixin(handler, |server| {
        let first = tcp(server.local_addr());
        assert_eq!(ask(&first, "0"), "got it");
        let others: Vec<_> = (1..=3)
            .map(|number| {
                let mut client = tcp(server.local_addr());
                writeln!(client, "{number}").unwrap();
                wait_until("it waits", || doing(&server, Activity::Waiting) == number);
                client
            })
            .collect();
        assert_eq!(ask(&tcp(server.local_addr()), "try"), "none");
        assert_eq!(ask(&first, "return"), "done");
        for client in &others {
            assert_eq!(line_of(client), "got it");
            assert_eq!(ask(client, "return"), "done");
        }
        assert_eq!(ask(&first, "order"), "0 1 2 3");
        assert!(server.stop(TIMEOUT).is_clean());
    });
}

#[test]
fn a_channel_connects_handlers_with_threads() {
    for capacity in [Some(0), Some(1), None] {
        let new = || match capacity {
            Some(capacity) => bounded::<String>(capacity),
            None => unbounded(),
        };
        let handler = || {
            let (to_thread, of_handler) = new();
            let (to_handler, of_thread) = new();
            thread::spawn(move || {
                for line in of_handler {
                    if to_handler.send(line.to_uppercase()).is_err() {
                        break;
                    }
                }
            });
            answers(move |line, connection| {
                to_thread.send(line.to_owned())?;
                Ok(writeln!(connection, "{}", of_thread.recv()?)?)
            })
        };
        on_each_mixin(handler, |server| {
            let client = tcp(server.local_addr());
            for line in ["one", "two", "three"] {
                assert_eq!(ask(&client, line), line.to_uppercase());
            }
            assert!(server.stop(TIMEOUT).is_clean());
        });
    }
}

#[test]
fn channels_have_the_semantics_of_crossbeam() {
    bound_test();
    let (sender, receiver) = bounded(0);
    assert!(sender.try_send(1).unwrap_err().is_full());
    assert_eq!(sender.send_timeout(1, SHORT), Err(SendTimeoutError::Timeout(1)));
    assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
    let received = thread::spawn({
        let receiver = receiver.clone();
        move || receiver.recv()
    });
    let mut message = Err(1);
    wait_until("a receiver waits", || {
        message = sender.try_send(1).map_err(|error| error.into_inner());
        message.is_ok()
    });
    assert_eq!(received.join().unwrap(), Ok(1));
    let sent = thread::spawn(move || sender.send(2));
    assert_eq!(receiver.recv(), Ok(2));
    assert_eq!(sent.join().unwrap(), Ok(()));
    assert!(receiver.try_recv().unwrap_err().is_disconnected());
    assert_eq!((receiver.len(), receiver.capacity()), (0, Some(0)));

    let (sender, receiver) = bounded(2);
    let (other_sender, other_receiver) = (sender.clone(), receiver.clone());
    assert!(sender.same_channel(&other_sender) && receiver.same_channel(&other_receiver));
    (1..=2).for_each(|message| sender.send(message).unwrap());
    assert!(sender.is_full() && receiver.is_full() && receiver.len() == 2);
    drop((sender, other_sender));
    assert_eq!(other_receiver.recv(), Ok(1));
    assert_eq!(receiver.into_iter().collect::<Vec<_>>(), [2]);

    let (sender, receiver) = unbounded();
    sender.send(1).unwrap();
    assert_eq!(receiver.try_iter().count(), 1);
    drop(receiver);
    assert_eq!(sender.send(2).unwrap_err().into_inner(), 2);
}

// Stops.

/// What a handler may wait for that never comes, and what it says when a stop ends the wait.
struct Waits {
    /// By a handler.
    held: Mutex<()>,
    /// By the test.
    never_free: Mutex<()>,
    never: Condvar,
    none: Semaphore,
    empty: channel::Receiver<()>,
    full: channel::Sender<()>,
    _other_ends: (channel::Sender<()>, channel::Receiver<()>),
    ends: Mutex<mpsc::Sender<String>>,
}

const WAITS: [&str; 6] = ["condvar", "semaphore", "recv", "send", "try_lock_for", "lock"];

impl Waits {
    fn new(ends: mpsc::Sender<String>) -> Waits {
        let (sender, empty) = bounded(0);
        let (full, receiver) = bounded(1);
        full.send(()).unwrap();
        Waits {
            held: Mutex::new(()),
            never_free: Mutex::new(()),
            never: Condvar::new(),
            none: Semaphore::new(0),
            empty,
            full,
            _other_ends: (sender, receiver),
            ends: Mutex::new(ends),
        }
    }

    fn wait(&self, what: &str, connection: &mut Connection) -> Result<String> {
        Ok(match what {
            "condvar" => format!("{:?}", self.never.wait(&mut Mutex::new(()).lock())),
            "semaphore" => format!("{:?}", self.none.acquire().map(drop)),
            "recv" => format!("{:?}", self.empty.recv()),
            "send" => self.full.send_timeout((), TIMEOUT).unwrap_err().to_string(),
            "try_lock_for" => format!("{:?}", self.never_free.try_lock_for(TIMEOUT).map(drop)),
            "lock" => format!("{:?}", drop(self.held.lock())),
            _ => {
                let _guard = self.held.lock();
                connection.write_all(b"held\n")?;
                connection.flush()?;
                format!("{:?}", self.never.wait(&mut Mutex::new(()).lock()))
            }
        })
    }
}

#[test]
fn a_stop_that_is_out_of_time_ends_every_wait() {
    for mixin in mixins() {
        let (sender, ends) = mpsc::channel();
        let waits = Arc::new(Waits::new(sender));
        let test = waits.clone();
        let _guard = test.never_free.lock();
        let handler = answers(move |line, connection| {
            let end = waits.wait(line, connection)?;
            waits.ends.lock().send(format!("{line}: {end}"))?;
            Ok(())
        });
        let server = serve_with(TcpServer::builder().mixin(mixin), handler);
        let holder = tcp(server.local_addr());
        assert_eq!(ask(&holder, "hold"), "held");
        let mut clients = vec![holder];
        for what in WAITS {
            let mut client = tcp(server.local_addr());
            writeln!(client, "{what}").unwrap();
            clients.push(client);
        }
        wait_until("all wait", || {
            doing(&server, Activity::Waiting) == 5 && doing(&server, Activity::Locking) == 2
        });
        let begin = Instant::now();
        let timeout = Duration::from_secs(2);
        let report = server.stop(timeout);
        assert!(begin.elapsed() < timeout, "{:?}", begin.elapsed());
        assert_eq!((report.forced, report.stuck.len()), (7, 0), "{report:?}");
        let mut ends: Vec<_> = (0..7).map(|_| next(&ends)).collect();
        ends.sort();
        let expected = [
            "condvar: Err(Stopped)",
            "hold: Err(Stopped)",
            "lock: ()",
            "recv: Err(RecvError)",
            "semaphore: Err(Stopped)",
            "send: sending on a disconnected channel",
            "try_lock_for: None",
        ];
        assert_eq!(ends, expected);
    }
}
