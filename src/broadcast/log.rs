//! The messages that some member has yet to get, once for all members.

use std::collections::VecDeque;
use std::sync::Arc;

pub(super) struct Message {
    pub(super) bytes: Arc<[u8]>,
    /// The one member that does not get it.
    pub(super) except: Option<u64>,
}

/// Messages by position: the first ever is at 0, and a position never comes again.
#[derive(Default)]
pub(super) struct Log {
    messages: VecDeque<Message>,
    start: u64,
    bytes: usize,
}

impl Log {
    /// The position of the oldest message that is still here.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// The position of the next message.
    pub(super) fn end(&self) -> u64 {
        self.start + self.messages.len() as u64
    }

    pub(super) fn append(&mut self, message: Message) {
        self.bytes += message.bytes.len();
        self.messages.push_back(message);
    }

    /// What a member that is at `position` has yet to get, each with the position after it.
    pub(super) fn lag(&self, member: u64, position: u64) -> impl Iterator<Item = (u64, &[u8])> {
        let skip = position.saturating_sub(self.start) as usize;
        let after = position.max(self.start) + 1;
        (after..)
            .zip(self.messages.iter().skip(skip))
            .filter(move |(_, message)| message.except != Some(member))
            .map(|(after, message)| (after, &*message.bytes))
    }

    /// Forgets what everybody has got.
    pub(super) fn forget_before(&mut self, position: u64) {
        while self.start < position && self.forget_oldest() {}
    }

    /// Forgets the oldest messages until the rest is within so many bytes.
    pub(super) fn shrink_to(&mut self, capacity: usize) {
        while self.bytes > capacity && self.forget_oldest() {}
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.messages.pop_front() else { return false };
        self.bytes -= oldest.bytes.len();
        self.start += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(messages: &[(&str, Option<u64>)]) -> Log {
        let mut log = Log::default();
        for (text, except) in messages {
            log.append(Message { bytes: text.as_bytes().into(), except: *except });
        }
        log
    }

    fn lag(log: &Log, member: u64, position: u64) -> Vec<(u64, &[u8])> {
        log.lag(member, position).collect()
    }

    #[test]
    fn a_member_gets_what_came_after_it_but_for_its_own() {
        let log = log(&[("a", None), ("b", Some(7)), ("c", Some(8))]);
        assert_eq!(lag(&log, 7, 0), [(1, &b"a"[..]), (3, b"c")]);
        assert_eq!(lag(&log, 8, 1), [(2, &b"b"[..])]);
        assert_eq!(lag(&log, 9, log.end()), []);
    }

    #[test]
    fn positions_stay_when_the_oldest_are_forgotten() {
        let mut log = log(&[("a", None), ("bb", None), ("ccc", None)]);
        log.forget_before(1);
        assert_eq!((log.start(), log.end(), log.bytes), (1, 3, 5));
        assert_eq!(lag(&log, 1, 1), [(2, &b"bb"[..]), (3, b"ccc")]);
        log.shrink_to(3);
        assert_eq!((log.start(), log.end(), log.bytes), (2, 3, 3));
        log.shrink_to(0);
        log.forget_before(10);
        assert_eq!((log.start(), log.end(), log.bytes), (3, 3, 0));
    }
}
