//! A room over many servers, through Redis.

mod appender;
mod outbox;
mod reader;
mod shared;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{Client, Connection, IntoConnectionInfo, RedisResult};

use super::audience::Audience;
use super::backplane::{Backplane, Message};
use crate::{Error, Result};
use appender::Appender;
use reader::Reader;
use shared::Shared;

/// A [`Backplane`] for a room over many servers, by way of a [Redis](https://redis.io) of version
/// 6.2 or newer. Needs the cargo feature `redis`.
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
/// use socketserver::services::{Chat, Redis};
///
/// let chat = Chat::with_backplane(Redis::new("redis://127.0.0.1:6379/0", "lobby")?)?;
/// ThreadingTcpServer::bind("0.0.0.0:2626", chat)?.serve_forever()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct Redis {
    settings: Settings,
    capacity: usize,
    running: Option<Running>,
}

#[derive(Clone, Debug)]
struct Settings {
    client: Client,
    keys: Keys,
    /// The name of this server among the room's: random, so that one that is started again is
    /// another one.
    server: String,
    history: usize,
    expiry: Duration,
}

/// All of them are in one slot of a cluster: the part in braces decides.
#[derive(Clone, Debug)]
struct Keys {
    /// What is said.
    stream: String,
    /// How many entries there have ever been.
    count: String,
    /// The servers, each with the time at which it is taken for dead.
    servers: String,
    /// Who is at this server, each with what is said when it is dead.
    members: String,
    /// The number of this server's last message.
    sequence: String,
    /// Since when this server has been heard of without a break.
    watch: String,
}

impl Redis {
    /// A room of this name at a Redis, as in `redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE]` or
    /// `redis+unix:///PATH`.
    ///
    /// # Errors
    /// A text that is no such URL, and a room that has no name, or one with braces or longer than
    /// 64 bytes, are an [`Error::Backplane`]. Whether Redis is there shows when the
    /// [chat](super::Chat::with_backplane) is made.
    pub fn new(url: &str, room: &str) -> Result<Redis> {
        let refuse = |reason: &str| Error::Backplane {
            // It may have a password in it.
            address: url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidInput, reason),
        };
        if room.is_empty() || room.len() > 64 || room.contains(['{', '}']) {
            return Err(refuse("a room's name has 1 to 64 bytes, and no braces"));
        }
        let info = url.into_connection_info().map_err(|error| refuse(&error.to_string()))?;
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        let client = Client::open(info.set_tcp_settings(tcp));
        let server = random_name().map_err(Error::system("make a random name"))?;
        let keys = Keys {
            stream: format!("chat:{{{room}}}:stream"),
            count: format!("chat:{{{room}}}:count"),
            servers: format!("chat:{{{room}}}:servers"),
            members: format!("chat:{{{room}}}:members:{server}"),
            sequence: format!("chat:{{{room}}}:sequence:{server}"),
            watch: format!("chat:{{{room}}}:watch:{server}"),
        };
        let settings = Settings {
            client: client.map_err(|error| refuse(&error.to_string()))?,
            keys,
            server,
            history: 100_000,
            expiry: Duration::from_secs(10),
        };
        Ok(Redis { settings, capacity: 4 * 1024 * 1024, running: None })
    }

    /// How many bytes of what was said here, and is not in Redis yet, are kept, with 128 bytes
    /// for each line; 4 MiB by default. While Redis is there and only slow, members wait (on fibers,
    /// whoever shares their worker does, too); while it is not, what they say beyond this is lost.
    pub fn capacity(mut self, bytes: usize) -> Redis {
        self.capacity = bytes;
        self
    }

    /// How many lines Redis keeps, about, for servers that were cut off; 100,000 by default. Each
    /// takes about 50 bytes of Redis's memory besides its text.
    pub fn history(mut self, lines: usize) -> Redis {
        // The most that Redis takes for a length.
        self.settings.history = lines.min(i64::MAX as usize);
        self
    }

    /// How long a server may be silent before the others say that its members left; 10 seconds by
    /// default, at least one, and at most a day. It speaks four times in that time, and should be
    /// the same for all.
    pub fn expiry(mut self, expiry: Duration) -> Redis {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        self.settings.expiry = expiry.clamp(Duration::from_secs(1), DAY);
        self
    }
}

impl Backplane for Redis {
    fn open(&mut self, audience: Audience) -> Result<()> {
        let settings = Arc::new(self.settings.clone());
        let shared = Arc::new(Shared::new(audience, self.capacity));
        let appender = Appender::new(settings.clone(), shared.clone());
        let reader = settings
            .connect()
            .and_then(|mut connection| {
                // Whether it can be written to shows now, too.
                appender.enter(&mut connection)?;
                Reader::new(settings.clone(), shared.clone(), &mut connection)
            })
            .map_err(|error| Error::Backplane {
                address: settings.address(),
                source: io::Error::other(error),
            })?;
        let mut running = Running { shared, threads: Vec::new() };
        running.start("chat-reads", move || reader.run())?;
        running.start("chat-appends", move || appender.run())?;
        self.running = Some(running);
        Ok(())
    }

    fn publish(&self, message: Message) {
        if let Some(running) = &self.running {
            running.shared.publish(message);
        }
    }
}

impl Settings {
    const CONNECT: Duration = Duration::from_secs(2);
    /// How long Redis may take for an answer; more than it may wait for something to read.
    const RESPONSE: Duration = Duration::from_secs(5);

    fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(Settings::CONNECT)?;
        connection.set_read_timeout(Some(Settings::RESPONSE))?;
        connection.set_write_timeout(Some(Settings::RESPONSE))?;
        Ok(connection)
    }

    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }
}

/// The two threads, from the opening to the end.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    fn start(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let builder = thread::Builder::new().name(name.to_owned());
        let shared = self.shared.clone();
        let thread = builder.spawn(move || {
            work();
            shared.done();
        });
        self.threads.push(thread.map_err(Error::system("start a thread of a chat's backplane"))?);
        Ok(())
    }
}

/// What was said is appended, if that is possible within a few seconds. A thread that then still
/// waits, for an answer or for a name to be resolved, ends by itself when it has waited.
impl Drop for Running {
    fn drop(&mut self) {
        if !self.shared.end(self.threads.len()) {
            log::warn!("chat: Redis is waited for no longer");
            return;
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}
