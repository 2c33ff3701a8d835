//! The thread that reads the room's stream and delivers its lines to this server's members.

use std::sync::Arc;

use redis::{Connection, RedisResult};
use socketserver::services::printable;

use crate::config::RoomConfig;
use crate::shared::{Shared, Side, lost_lines};

/// How many milliseconds `XREAD` blocks; then the thread checks for a shutdown.
const BLOCK: &str = "2000";

/// The most entries in one reply.
const BATCH: &str = "256";

/// The position of an entry in a stream: milliseconds, and a number within a millisecond.
type EntryId = (u64, u64);

pub(crate) struct Reader {
    config: Arc<RoomConfig>,
    shared: Arc<Shared>,
    /// The last entry that was delivered.
    last: EntryId,
    /// Its number. Numbers have no gaps.
    number: u64,
}

/// An entry's id, and its names and values in turn. Foreign entries need not be text.
type Entry = (String, Vec<Vec<u8>>);

impl Reader {
    /// A reader of the entries to come.
    pub(crate) fn new(
        config: Arc<RoomConfig>,
        shared: Arc<Shared>,
        connection: &mut Connection,
    ) -> RedisResult<Reader> {
        let (entries, number): (Vec<Entry>, Option<u64>) = redis::pipe()
            .atomic()
            .cmd("XREVRANGE")
            .arg(&[&config.keys.stream, "+", "-", "COUNT", "1"])
            .cmd("GET")
            .arg(&config.keys.count)
            .query(connection)?;
        let last = entries.first().map_or((0, 0), |(id, _)| parse(id));
        Ok(Reader { config, shared, last, number: number.unwrap_or(0) })
    }

    pub(crate) fn run(mut self) {
        let shared = self.shared.clone();
        shared.keep_connected(Side::Reading, || self.session());
    }

    /// One connection, until the shutdown or an error.
    fn session(&mut self) -> RedisResult<()> {
        let mut connection = self.config.connect()?;
        self.rewind(&mut connection)?;
        self.shared.set_reader_client(redis::cmd("CLIENT").arg("ID").query(&mut connection)?);
        self.shared.on_connected(Side::Reading);
        while !self.shared.is_shutting_down() {
            let (milliseconds, number) = self.last;
            let streams: Option<Vec<(String, Vec<Entry>)>> = redis::cmd("XREAD")
                .arg(&["COUNT", BATCH, "BLOCK", BLOCK, "STREAMS", &self.config.keys.stream])
                .arg(format!("{milliseconds}-{number}"))
                .query(&mut connection)?;
            for (id, fields) in streams.unwrap_or_default().into_iter().flat_map(|(_, list)| list) {
                self.last = parse(&id);
                self.deliver(&fields);
            }
        }
        Ok(())
    }

    /// Moves back to the end of the stream, if Redis has lost its last entries. Those that it still
    /// has were delivered.
    fn rewind(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let now = Reader::new(self.config.clone(), self.shared.clone(), connection)?;
        self.last = self.last.min(now.last);
        self.number = self.number.min(now.number);
        Ok(())
    }

    fn deliver(&mut self, fields: &[Vec<u8>]) {
        let field = |name: &str| {
            let pair = fields.chunks_exact(2).find(|pair| pair[0] == name.as_bytes())?;
            str::from_utf8(&pair[1]).ok()
        };
        let number = field("number").and_then(|number| number.parse::<u64>().ok());
        // A foreign entry.
        let (Some(number), Some(author), Some(line)) = (number, field("author"), field("line"))
        else {
            return;
        };
        let missed = number.saturating_sub(self.number + 1);
        self.number = number;
        if missed > 0 {
            // Redis trimmed the stream before this thread had read them.
            self.shared.notice(lost_lines(missed));
        }
        let author = author.split_once(':').filter(|(server, _)| *server == self.config.server);
        let author = author.and_then(|(_, member)| member.parse().ok());
        self.shared.members.deliver(&printable(line.as_bytes()), author);
    }
}

fn parse(id: &str) -> EntryId {
    let (milliseconds, number) = id.split_once('-').unwrap_or((id, ""));
    (milliseconds.parse().unwrap_or(0), number.parse().unwrap_or(0))
}
