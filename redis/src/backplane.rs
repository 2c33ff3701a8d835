//! A room over many servers, through Redis.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socketserver::services::{Backplane, LocalMembers, Message};

use crate::Error;
use crate::appender::Appender;
use crate::config::RoomConfig;
use crate::reader::Reader;
use crate::shared::Shared;

/// A [`Backplane`] for a room over many servers, by way of a [Redis](https://redis.io) of version
/// 6.2 or newer.
///
/// What is said is appended to a [stream](https://redis.io/docs/latest/develop/data-types/streams/)
/// and read from there by each server, so that all members on all servers read the same lines in
/// the same order, also who comes and who goes; a member reads its neighbour's line when it has
/// been to Redis and back.
///
/// **When Redis is lost** the server goes on serving, and tries to reach it again, at least once a
/// second. What its members say meanwhile is kept, up to a [`capacity`](Redis::capacity); beyond it
/// is lost. The members are told when this begins, when it ends, and how much was lost, by lines
/// that begin with `* `. With Redis back, what was kept is appended, each line once, and what others
/// said is read from where this server was, as far as the stream's [`history`](Redis::history)
/// goes back.
///
/// **When a server is lost**, and was silent for its [`expiry`](Redis::expiry), the others say that
/// its members left. If it was only cut off, they join again when it is back.
///
/// What Redis loses by itself is lost: let it write its
/// [append-only file](https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/),
/// with `appendfsync always` if not even the last seconds may be lost, and evict nothing
/// (`maxmemory-policy noeviction`, as by default). Whoever can write to it is trusted.
///
/// ```no_run
/// use socketserver::ThreadingTcpServer;
/// use socketserver::services::Chat;
/// use socketserver_redis::Redis;
///
/// let chat = Chat::with_backplane(Redis::new("redis://127.0.0.1:6379/0", "lobby")?)?;
/// ThreadingTcpServer::bind("0.0.0.0:2626", chat)?.serve_forever()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Redis {
    config: RoomConfig,
    threads: Option<Threads>,
}

impl Redis {
    /// A room of this name at a Redis, as in `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]` or
    /// `redis+unix:///PATH`.
    ///
    /// # Errors
    /// A text that is no such URL is an [`Error::Url`]; a room that has no name, or one with braces
    /// or longer than 64 bytes, is an [`Error::RoomName`]. Whether Redis is there shows when the
    /// [chat](socketserver::services::Chat::with_backplane) is made.
    pub fn new(url: &str, room: &str) -> Result<Redis, Error> {
        Ok(Redis { config: RoomConfig::new(url, room)?, threads: None })
    }

    /// How many bytes of what was said here, and is not in Redis yet, are kept, with 128 bytes
    /// for each line; 4 MiB by default. While Redis is there and only slow, members wait (on fibers,
    /// whoever shares their worker does, too); while it is not, what they say beyond this is lost.
    pub fn capacity(mut self, bytes: usize) -> Redis {
        self.config.capacity = bytes;
        self
    }

    /// How many lines Redis keeps, about, for servers that were cut off; 100,000 by default. Each
    /// takes about 50 bytes of Redis's memory besides its text.
    pub fn history(mut self, lines: usize) -> Redis {
        // The most that Redis takes for a length.
        self.config.history = lines.min(i64::MAX as usize);
        self
    }

    /// How long a server may be silent before the others say that its members left; 10 seconds by
    /// default, at least one, and at most a day. It speaks four times in that time, and should be
    /// the same for all.
    pub fn expiry(mut self, expiry: Duration) -> Redis {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        self.config.expiry = expiry.clamp(Duration::from_secs(1), DAY);
        self
    }
}

impl Backplane for Redis {
    type Error = Error;

    fn open(&mut self, members: LocalMembers) -> Result<(), Error> {
        let config = Arc::new(self.config.clone());
        let shared = Arc::new(Shared::new(members, config.capacity));
        let appender = Appender::new(config.clone(), shared.clone());
        let reader = config
            .connect()
            .and_then(|mut connection| {
                // Whether it can be written to shows now, too.
                appender.register(&mut connection)?;
                Reader::new(config.clone(), shared.clone(), &mut connection)
            })
            .map_err(|error| Error::Redis {
                url: config.url.clone(),
                room: config.room.clone(),
                source: Box::new(error),
            })?;
        let mut threads = Threads { shared, handles: Vec::new() };
        threads.start("chat-reader", move || reader.run())?;
        threads.start("chat-appender", move || appender.run())?;
        self.threads = Some(threads);
        Ok(())
    }

    fn publish(&self, message: Message) {
        if let Some(threads) = &self.threads {
            threads.shared.publish(message);
        }
    }
}

/// The two threads, from the opening to the end.
#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
}

impl Threads {
    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let builder = thread::Builder::new().name(name.to_owned());
        let shared = self.shared.clone();
        let thread = builder.spawn(move || {
            work();
            shared.thread_exited();
        });
        self.handles.push(thread.map_err(Error::system("start a thread of a chat's backplane"))?);
        Ok(())
    }
}

/// What was said is appended, if that is possible within a few seconds. A thread that then still
/// waits, for an answer or for a name to be resolved, ends by itself when it has waited.
impl Drop for Threads {
    fn drop(&mut self) {
        if !self.shared.shut_down(self.handles.len()) {
            log::warn!("chat: Redis is waited for no longer");
            return;
        }
        for thread in self.handles.drain(..) {
            let _ = thread.join();
        }
    }
}
