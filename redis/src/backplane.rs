//! The backplane itself: [`Redis`].

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socketserver::extend::{Backplane, LocalMembers, Message};

use crate::Error;
use crate::appender::Appender;
use crate::config::RoomConfig;
use crate::reader::Reader;
use crate::shared::Shared;

/// A [`Backplane`] for a room on several servers, by way of a [Redis](https://redis.io) of version
/// 6.2 or newer.
///
/// Each server appends the messages of its members to a
/// [stream](https://redis.io/docs/latest/develop/data-types/streams/) and reads all lines from
/// there, so that all members on all servers receive the same lines in the same order, joins and
/// leaves included. A line to a member on the same server takes the way through Redis, too.
///
/// **When Redis fails** the server goes on serving, and tries to reconnect, at least once a second.
/// Meanwhile it keeps the messages of its members, up to a [`capacity`](Redis::capacity); further
/// messages are lost. Lines that begin with `* ` tell the members when this begins, when it ends,
/// and how many lines were lost. After it has reconnected, the server appends what it has kept,
/// each line once, and reads the lines of others from where it was, as far as the stream's
/// [`history`](Redis::history) goes back.
///
/// **When a server fails**, and was silent for its [`expiry`](Redis::expiry), the others deliver
/// the leave messages of its members. If it had only lost its connection, the members join again
/// when it has reconnected.
///
/// Lines that Redis itself loses are lost. It should write its
/// [append-only file](https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/),
/// with `appendfsync always` if not even the last seconds may be lost, and evict nothing
/// (`maxmemory-policy noeviction`, the default). Every client that can write to it is trusted.
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
    /// The room of this name in the Redis at `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]` or
    /// `redis+unix:///PATH`. This does not connect yet:
    /// [`Chat::with_backplane`](socketserver::services::Chat::with_backplane) does.
    ///
    /// # Errors
    /// [`Error::Url`] for a text that is no such URL, [`Error::RoomName`] for a name that is empty,
    /// has braces, or is longer than 64 bytes.
    pub fn new(url: &str, room: &str) -> Result<Redis, Error> {
        Ok(Redis { config: RoomConfig::new(url, room)?, threads: None })
    }

    /// How many bytes of messages the server keeps until Redis has them, with 128 bytes for each
    /// besides its text; 4 MiB by default. Beyond it, members wait while Redis is connected but
    /// slow (on fibers, so do all others on the same worker), and messages are lost while it is
    /// not.
    pub fn capacity(mut self, bytes: usize) -> Redis {
        self.config.capacity = bytes;
        self
    }

    /// Roughly how many lines Redis keeps for servers that reconnect; 100,000 by default. Each
    /// takes about 50 bytes of Redis's memory besides its text.
    pub fn history(mut self, lines: usize) -> Redis {
        // The longest length that Redis accepts.
        self.config.history = lines.min(i64::MAX as usize);
        self
    }

    /// How long a server may be silent before the others count its members as gone; 10 seconds by
    /// default, at least one second, and at most a day. A server sends four heartbeats in that
    /// time. It should be the same for all servers of a room.
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
                // Also shows whether Redis can be written to.
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

/// The appender and the reader, from `open` to the drop.
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

/// Appends what is in the outbox, if that is possible within a few seconds. A thread that still
/// waits then, for a reply or for a name to be resolved, exits later by itself.
impl Drop for Threads {
    fn drop(&mut self) {
        if !self.shared.shut_down(self.handles.len()) {
            log::warn!("chat: Redis did not reply in time to the shutdown");
            return;
        }
        for thread in self.handles.drain(..) {
            let _ = thread.join();
        }
    }
}
