//! Messages that are not written yet, stored once for all that receive them.

use std::collections::VecDeque;
use std::ops::Range;

/// Consecutive messages, each complete.
///
/// A position is an offset in the stream of all messages ever sent, so it is never reused.
#[derive(Debug)]
pub(crate) struct Chunk {
    start: u64,
    bytes: Vec<u8>,
    /// The end of each message in `bytes`.
    ends: Vec<usize>,
}

/// The maximal size of a chunk. A longer message gets a chunk of its own.
const MAX_CHUNK: usize = 64 * 1024;

impl Chunk {
    fn new(start: u64) -> Chunk {
        Chunk { start, bytes: Vec::new(), ends: Vec::new() }
    }

    /// The position of the first byte.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn has_capacity(&self, length: usize) -> bool {
        self.bytes.is_empty() || self.bytes.len() + length <= MAX_CHUNK
    }

    fn push(&mut self, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.ends.push(self.bytes.len());
    }

    /// The end of the message that `position` is inside; `position` itself between two messages.
    fn end_of_message(&self, position: u64) -> u64 {
        let offset = (position - self.start) as usize;
        let next = self.ends.partition_point(|end| *end < offset);
        if offset == 0 { position } else { self.start + self.ends[next] as u64 }
    }

    fn bytes(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }
}

/// Appends a message, at the position `end`, to the last chunk or to a new one. Returns the new
/// end.
pub(crate) fn append(chunks: &mut Vec<Chunk>, end: u64, message: &[u8]) -> u64 {
    match chunks.last_mut() {
        Some(last) if last.has_capacity(message.len()) => last.push(message),
        _ => {
            let mut chunk = Chunk::new(end);
            chunk.push(message);
            chunks.push(chunk);
        }
    }
    end + message.len() as u64
}

/// Consecutive chunks.
#[derive(Debug, Default)]
pub(crate) struct Log {
    chunks: VecDeque<Chunk>,
    /// Messages before this are discarded, even if their chunk is still stored.
    start: u64,
    end: u64,
}

impl Log {
    /// The position of the oldest message.
    pub(crate) fn start(&self) -> u64 {
        self.start
    }

    /// The position of the next message.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn extend(&mut self, chunks: Vec<Chunk>) {
        self.chunks.extend(chunks);
        self.end = self.chunks.back().map_or(self.end, Chunk::end);
    }

    /// The bytes of a range, one slice per chunk.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = &[u8]> {
        let first = self.chunk_at(range.start);
        self.chunks
            .range(first..)
            .take_while(move |chunk| chunk.start < range.end)
            .map(move |chunk| chunk.bytes(range.start.max(chunk.start)..range.end.min(chunk.end())))
    }

    /// The rest of the message that `position` is inside; empty between two messages.
    pub(crate) fn rest_of_message(&self, position: u64) -> &[u8] {
        let chunk = self.chunks.get(self.chunk_at(position));
        chunk.map_or(&[], |chunk| chunk.bytes(position..chunk.end_of_message(position)))
    }

    /// Discards all messages before a position.
    pub(crate) fn discard_before(&mut self, position: u64) {
        self.start = self.start.max(position);
        while self.chunks.front().is_some_and(|chunk| chunk.end() <= self.start) {
            self.chunks.pop_front();
        }
    }

    /// Discards the oldest messages until at most `capacity` bytes are left.
    pub(crate) fn shrink_to(&mut self, capacity: usize) {
        let start = self.end.saturating_sub(capacity as u64);
        if start > self.start {
            self.discard_before(start + self.rest_of_message(start).len() as u64);
        }
    }

    fn chunk_at(&self, position: u64) -> usize {
        self.chunks.partition_point(|chunk| chunk.end() <= position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(start: u64, messages: &[&str]) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        let append_one = |end, message: &&str| append(&mut chunks, end, message.as_bytes());
        messages.iter().fold(start, append_one);
        chunks
    }

    fn text(log: &Log, range: Range<u64>) -> String {
        log.pieces(range).map(|piece| str::from_utf8(piece).unwrap()).collect()
    }

    #[test]
    fn messages_appended_together_are_one_piece() {
        let mut log = Log::default();
        log.extend(chunks(0, &["a", "bb", "ccc"]));
        log.extend(chunks(6, &["dddd"]));
        assert_eq!(log.pieces(1..10).collect::<Vec<_>>(), [&b"bbccc"[..], b"dddd"]);
        assert_eq!(text(&log, 0..10), "abbcccdddd");
        assert_eq!(text(&log, 3..7), "cccd");
        assert_eq!((text(&log, 6..6), text(&log, 10..10)), (String::new(), String::new()));
    }

    #[test]
    fn a_long_message_has_a_chunk_of_its_own() {
        let long = "x".repeat(3 * MAX_CHUNK);
        let chunks = chunks(0, &["a", &long, "b"]);
        let lengths: Vec<_> = chunks.iter().map(|chunk| chunk.bytes.len()).collect();
        assert_eq!(lengths, [1, 3 * MAX_CHUNK, 1]);
    }

    #[test]
    fn the_rest_of_a_message_ends_at_its_end() {
        let mut log = Log::default();
        log.extend(chunks(0, &["one", "two"]));
        log.extend(chunks(6, &["three"]));
        let rests =
            [0, 1, 3, 5, 6, 9, 11].map(|from| str::from_utf8(log.rest_of_message(from)).unwrap());
        assert_eq!(rests, ["", "ne", "", "o", "", "ee", ""]);
    }

    #[test]
    fn discarding_messages_does_not_change_positions() {
        let mut log = Log::default();
        log.extend(chunks(0, &["a"]));
        log.extend(chunks(1, &["bb", "ccc"]));
        log.discard_before(1);
        assert_eq!((log.start(), log.end(), log.chunks.len()), (1, 6, 1));
        assert_eq!(text(&log, 1..6), "bbccc");
        // Only complete messages are kept.
        log.shrink_to(4);
        assert_eq!((log.start(), log.end()), (3, 6));
        log.shrink_to(2);
        assert_eq!((log.start(), log.end(), log.chunks.len()), (6, 6, 0));
        log.extend(chunks(6, &["d"]));
        assert_eq!((text(&log, 6..7), log.end()), ("d".to_owned(), 7));
    }
}
