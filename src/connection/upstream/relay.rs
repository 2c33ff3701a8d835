//! Relaying: both directions between two connections, on one thread or fiber.

use std::io;
use std::slice;
use std::time::{Duration, Instant};

use super::direction::{Direction, Step};
use crate::connection::Connection;
use crate::connection::timeouts::Limit;
use crate::error::Error;
use crate::net::Interest;
use crate::sync::{Activity, Current, TimeLimit};

/// What [`Connection::relay`] has carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Relayed {
    /// The bytes from this connection to the upstream.
    pub sent: u64,
    /// The bytes from the upstream to this connection.
    pub received: u64,
    /// Whose input ended first.
    pub ended_first: RelayEnd,
}

/// One of the two ends of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayEnd {
    /// The connection whose [`relay`](Connection::relay) was called.
    Client,
    /// The other one.
    Upstream,
}

impl Connection {
    /// Carries bytes in both directions, until both have ended.
    ///
    /// What was read into either buffer, or written to it and not sent, goes first. When one side ends
    /// its input, the write side of the other is shut (half-close), and the other direction goes on. What
    /// cannot be written is not read: neither direction holds more than 32 KiB, or what fits into a pipe.
    /// A direction that has carried 64 KiB goes on by splice(2) if both are sockets and there are two
    /// descriptors for a pipe.
    ///
    /// The [idle timeout](Connection::set_idle_timeout) of this connection, or else its read timeout, is
    /// that of the pair: it starts anew with each byte in either direction. Writes have the write timeouts
    /// of their connections. Other limits are not checked.
    ///
    /// A stop ends the input of this connection behind what was received, so that the upstream can still
    /// answer.
    ///
    /// # Errors
    /// Those of reads and writes on both connections, timeouts among them. When one was reset, what it had
    /// sent before is carried yet, and the other is reset too when it is closed, unless it has been sent
    /// everything and the end. (Unix sockets have no reset: the other reads EOF.) [`Error::Stopped`] when
    /// a stop is out of time.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use socketserver::{FiberTcpServer, handler_fn};
    ///
    /// let gateway = handler_fn(|client| {
    ///     let mut upstream = client.connect("10.0.0.5:6379", Duration::from_secs(3))?;
    ///     let relayed = client.relay(&mut upstream)?;
    ///     log::info!("{}: {} up, {} down", client.peer_addr(), relayed.sent, relayed.received);
    ///     Ok(())
    /// });
    /// FiberTcpServer::bind("127.0.0.1:6380", gateway)?.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn relay(&mut self, upstream: &mut Connection) -> io::Result<Relayed> {
        let mut relay = Relay::new(self, upstream);
        let ended = relay.run();
        let (end, error) = match relay.failure(ended.err()) {
            Some(failure) => failure,
            None => return Ok(relay.relayed()),
        };
        let are_complete = [relay.down.is_complete(), relay.up.is_complete()];
        drop(relay);
        if Error::is_disconnect(&error) {
            for (connection, is_complete) in [&*self, &*upstream].into_iter().zip(are_complete) {
                if !is_complete {
                    connection.stream.reset_on_close();
                }
            }
        }
        let failed = if end == RelayEnd::Client { self } else { upstream };
        failed.input().record_failure(Err(error))
    }
}

/// An error, and the connection that has failed.
type Failure = (RelayEnd, io::Error);

struct Relay<'a> {
    client: &'a mut Connection,
    upstream: &'a mut Connection,
    /// From the client to the upstream, and back.
    up: Direction,
    down: Direction,
    ended_first: Option<RelayEnd>,
    idle_timeout: Option<Duration>,
    last_progress: Instant,
}

impl<'a> Relay<'a> {
    fn new(client: &'a mut Connection, upstream: &'a mut Connection) -> Relay<'a> {
        let up = Direction::new(client, upstream);
        let down = Direction::new(upstream, client);
        let idle_timeout = client.input.timeouts.socket_timeout();
        let last_progress = Instant::now();
        Relay { client, upstream, up, down, ended_first: None, idle_timeout, last_progress }
    }

    /// Until both directions have ended. A write that has failed is not returned here.
    fn run(&mut self) -> Result<(), Failure> {
        let current = Current::get();
        loop {
            if current.is_interrupted() {
                return Err((RelayEnd::Client, Error::Stopped.into()));
            }
            if let Some(limit) = TimeLimit::current().filter(TimeLimit::is_over) {
                return Err((RelayEnd::Client, limit.error().into()));
            }
            if self.up.has_ended() && self.down.has_ended() {
                return Ok(());
            }
            // Where one thread does everything, and a relay may never have to wait.
            self.client.link().check_shutdown();
            if !self.step()? {
                self.wait(&current)?;
            } else if self.idle_timeout.is_some() {
                self.last_progress = Instant::now();
            }
        }
    }

    fn relayed(&self) -> Relayed {
        Relayed {
            sent: self.up.carried(),
            received: self.down.carried(),
            ended_first: self.ended_first.unwrap_or(RelayEnd::Client),
        }
    }

    /// What the relay has failed by, if it has: the failure of a write came before what ended it.
    fn failure(&mut self, by: Option<Failure>) -> Option<Failure> {
        let up = self.up.take_failure().map(|error| (RelayEnd::Upstream, error));
        let down = self.down.take_failure().map(|error| (RelayEnd::Client, error));
        up.or(down).or(by)
    }

    /// One step of each direction. Whether anything was done.
    fn step(&mut self) -> Result<bool, Failure> {
        let mut has_progress = false;
        if !self.up.has_ended() {
            let step = self.up.step(self.client, self.upstream, self.down.has_failed());
            let step = step.map_err(|error| (RelayEnd::Client, error))?;
            has_progress |= self.note(step, RelayEnd::Client);
        }
        if !self.down.has_ended() {
            let step = self.down.step(self.upstream, self.client, self.up.has_failed());
            let step = step.map_err(|error| (RelayEnd::Upstream, error))?;
            has_progress |= self.note(step, RelayEnd::Upstream);
        }
        Ok(has_progress)
    }

    fn note(&mut self, step: Step, from: RelayEnd) -> bool {
        if step == Step::Ended {
            self.ended_first.get_or_insert(from);
        }
        step != Step::Blocked
    }

    /// Waits until one of the directions can go on.
    fn wait(&mut self, current: &Current) -> Result<(), Failure> {
        let idle = self.idle_timeout.map(|timeout| self.last_progress + timeout);
        let up = self.up.blocked(self.upstream).map_err(|error| (RelayEnd::Upstream, error))?;
        let down = self.down.blocked(self.client).map_err(|error| (RelayEnd::Client, error))?;
        let within = TimeLimit::current().map(|limit| limit.deadline);
        let deadline = [idle, up, down, within].into_iter().flatten().min();
        let is_full = [&self.up, &self.down].iter().any(|way| way.is_waiting_for_room());
        let activity = if is_full { Activity::Writing } else { Activity::Reading };
        match current.doing(activity, || self.wait_until(deadline)) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                match idle.is_some_and(|idle| idle <= Instant::now()) {
                    true => Err((RelayEnd::Client, self.name_idle_timeout(error))),
                    // A look at the progress of a write was due, or a time limit is over.
                    false => Ok(()),
                }
            }
            waited => waited.map_err(|error| (RelayEnd::Client, error)),
        }
    }

    fn name_idle_timeout(&self, error: io::Error) -> io::Error {
        let timeouts = &self.client.input.timeouts;
        timeouts
            .name_timeout(error, if timeouts.idle.is_some() { Limit::Idle } else { Limit::Read })
    }

    fn wait_until(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let (client, upstream) = (&self.client.stream, &self.upstream.stream);
        let up = self.up.source(client, upstream);
        let down = self.down.source(upstream, client);
        let sources = match (up, down) {
            (Some(up), Some(down)) => {
                let both = [up, down];
                client.wait_any(&both, deadline)?;
                both.map(Some)
            }
            (up, down) => {
                let one = up.as_ref().or(down.as_ref());
                one.map_or(Ok(()), |one| client.wait_any(slice::from_ref(one), deadline))?;
                [up, down]
            }
        };
        let [up, down] = sources.map(|source| {
            source.is_some_and(|source| source.is_ready() && source.interest() == Interest::Read)
        });
        if up {
            self.up.set_readable(client);
        }
        if down {
            self.down.set_readable(upstream);
        }
        Ok(())
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        if self.up.has_spliced() || self.down.has_spliced() {
            for stream in [&self.client.stream, &self.upstream.stream] {
                if !stream.uses_wait() {
                    // It fails only for a closed descriptor.
                    let _ = stream.set_nonblocking(false);
                }
            }
        }
    }
}
