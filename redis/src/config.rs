//! The settings of a room over Redis: [`RoomConfig`].

use std::io;
use std::time::Duration;

use redis::{Client, Connection, IntoConnectionInfo, RedisResult};

use crate::Error;

#[derive(Clone, Debug)]
pub(crate) struct RoomConfig {
    /// Where Redis is, without the password.
    pub(crate) url: String,
    pub(crate) room: String,
    client: Client,
    pub(crate) keys: Keys,
    /// The name of this server in the room. It is random, so that a restarted server has another.
    pub(crate) server: String,
    pub(crate) history: usize,
    pub(crate) expiry: Duration,
    /// In bytes.
    pub(crate) capacity: usize,
}

/// The room's keys in Redis. The part in braces puts all of them into one slot of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    /// The stream of lines.
    pub(crate) stream: String,
    /// How many entries were ever appended to the stream.
    pub(crate) count: String,
    /// The servers, each with the time at which it expires.
    pub(crate) servers: String,
    /// The members on this server, each with its leave message.
    pub(crate) members: String,
    /// The number of this server's last appended message.
    pub(crate) sequence: String,
    /// Since when the heartbeats of this server have come without a gap.
    pub(crate) alive_since: String,
}

impl RoomConfig {
    const CONNECT: Duration = Duration::from_secs(2);
    /// How long a reply may take; longer than the reader's `XREAD` blocks.
    const RESPONSE: Duration = Duration::from_secs(5);

    pub(crate) fn new(url: &str, room: &str) -> Result<RoomConfig, Error> {
        if room.is_empty() || room.len() > 64 || room.contains(['{', '}']) {
            return Err(Error::RoomName { room: room.to_owned() });
        }
        let shown = without_password(url);
        let client = url.into_connection_info().and_then(|info| {
            let tcp = info.tcp_settings().clone().set_nodelay(true);
            Client::open(info.set_tcp_settings(tcp))
        });
        let client =
            client.map_err(|error| Error::Url { url: shown.clone(), source: Box::new(error) })?;
        let server = random_name().map_err(Error::system("make a random name"))?;
        Ok(RoomConfig {
            url: shown,
            room: room.to_owned(),
            client,
            keys: Keys::new(room, &server),
            server,
            history: 100_000,
            expiry: Duration::from_secs(10),
            capacity: 4 * 1024 * 1024,
        })
    }

    pub(crate) fn connect(&self) -> RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(RoomConfig::CONNECT)?;
        connection.set_read_timeout(Some(RoomConfig::RESPONSE))?;
        connection.set_write_timeout(Some(RoomConfig::RESPONSE))?;
        Ok(connection)
    }
}

impl Keys {
    fn new(room: &str, server: &str) -> Keys {
        Keys {
            stream: format!("chat:{{{room}}}:stream"),
            count: format!("chat:{{{room}}}:count"),
            servers: format!("chat:{{{room}}}:servers"),
            members: format!("chat:{{{room}}}:members:{server}"),
            sequence: format!("chat:{{{room}}}:sequence:{server}"),
            alive_since: format!("chat:{{{room}}}:alive_since:{server}"),
        }
    }
}

fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// The URL for an error message. Credentials are before the last `@`, or for a Unix socket in the
/// query. The text need not be a valid URL.
fn without_password(url: &str) -> String {
    let is_unix = url.split_once(':').is_some_and(|(scheme, _)| scheme.ends_with("unix"));
    let url = match url.rsplit_once('@') {
        Some((start, host)) if !is_unix => match start.split_once("://") {
            Some((scheme, _)) => format!("{scheme}://{host}"),
            None => host.to_owned(),
        },
        _ => url.to_owned(),
    };
    url.split('?').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_the_url_without_its_password() {
        for (url, shown) in [
            ("redis://host:6379/0", "redis://host:6379/0"),
            ("redis://user:secret@host/0", "redis://host/0"),
            ("redis://user:secret@host/0?protocol=resp3", "redis://host/0"),
            ("redis://user:s/e?c@ret@host", "redis://host"),
            ("user:secret@host", "host"),
            ("unix:///run/a@b.sock?user=me&pass=sec@ret", "unix:///run/a@b.sock"),
            ("redis+unix:///run/redis.sock?pass=secret", "redis+unix:///run/redis.sock"),
        ] {
            assert_eq!(without_password(url), shown);
        }
        let error = RoomConfig::new("http://user:secret@host", "lobby").unwrap_err();
        assert!(error.to_string().starts_with("bad URL http://host: "), "{error}");
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }
}
