//! The messages of this server's members that Redis has not acknowledged: [`Outbox`].

use std::collections::{BTreeMap, VecDeque};

use socketserver::MemberId;
use socketserver::extend::{Kind, Message};

/// What a message costs besides its text, roughly.
const OVERHEAD: usize = 128;

/// Messages in order, numbered from 1, up to a capacity in bytes.
///
/// A full outbox refuses lines, but neither joins nor leaves, which the other servers must know of.
/// A join waits in `deferred_joins` until there is space, and reserves the space for its leave.
#[derive(Debug)]
pub(crate) struct Outbox {
    capacity: usize,
    bytes: usize,
    messages: VecDeque<Message>,
    /// The number of the first message.
    first: u64,
    /// The joins of the members that Redis has in the room, by their numbers.
    announced: BTreeMap<MemberId, Message>,
    /// The joins that came while the outbox was full.
    deferred_joins: BTreeMap<MemberId, Message>,
}

impl Outbox {
    pub(crate) fn new(capacity: usize) -> Outbox {
        Outbox {
            capacity,
            bytes: 0,
            messages: VecDeque::new(),
            first: 1,
            announced: BTreeMap::new(),
            deferred_joins: BTreeMap::new(),
        }
    }

    /// Takes a message, or returns it if there is no space.
    pub(crate) fn try_push(&mut self, message: Message) -> Result<(), Message> {
        let is_full = self.is_full();
        match &message.kind {
            Kind::Join { .. } if is_full => {
                self.deferred_joins.insert(message.author, message);
            }
            Kind::Leave if self.deferred_joins.remove(&message.author).is_some() => {}
            Kind::Join { .. } | Kind::Leave => self.push(message),
            _ if is_full => return Err(message),
            _ => self.push(message),
        }
        Ok(())
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The number of the first message.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    /// Removes the messages up to this number, which Redis has.
    pub(crate) fn acknowledge(&mut self, last: u64) {
        while self.first <= last
            && let Some(message) = self.messages.pop_front()
        {
            self.first += 1;
            self.bytes -= size(&message);
            match message.kind {
                Kind::Join { .. } => {
                    self.announced.insert(message.author, message);
                }
                Kind::Leave => {
                    self.announced.remove(&message.author);
                }
                _ => {}
            }
        }
        while !self.is_full()
            && let Some((_, message)) = self.deferred_joins.pop_first()
        {
            self.push(message);
        }
    }

    /// The joins of all members that Redis has in the room, to register them again.
    pub(crate) fn announced(&self) -> impl Iterator<Item = &Message> {
        self.announced.values()
    }

    fn push(&mut self, message: Message) {
        self.bytes += size(&message);
        self.messages.push_back(message);
    }

    fn is_full(&self) -> bool {
        self.bytes > self.capacity
    }
}

fn size(message: &Message) -> usize {
    let leave_message = match &message.kind {
        // Includes the leave.
        Kind::Join { leave_message } => OVERHEAD + 2 * leave_message.len(),
        _ => 0,
    };
    OVERHEAD + message.line.len() + leave_message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joins(author: u64) -> Message {
        let leave_message = format!("{author} left");
        Message::new(author.into(), format!("{author} joined"), Kind::Join { leave_message })
    }

    fn sends(author: u64, line: &str) -> Message {
        Message::new(author.into(), line, Kind::Message)
    }

    fn leaves(author: u64) -> Message {
        Message::new(author.into(), format!("{author} left"), Kind::Leave)
    }

    fn lines(outbox: &Outbox) -> (u64, Vec<&str>) {
        (outbox.first(), outbox.messages().map(|message| message.line.as_str()).collect())
    }

    fn announced(outbox: &Outbox) -> Vec<u64> {
        outbox.announced().map(|message| message.author.into()).collect()
    }

    /// How many lines fit.
    fn fill(outbox: &mut Outbox) -> usize {
        (1..).find(|_| outbox.try_push(sends(1, "x")).is_err()).unwrap() - 1
    }

    #[test]
    fn acknowledged_messages_are_removed_and_numbers_go_on() {
        let mut outbox = Outbox::new(10_000);
        for message in [joins(1), sends(1, "a"), sends(1, "b")] {
            outbox.try_push(message).unwrap();
        }
        assert_eq!(lines(&outbox), (1, vec!["1 joined", "a", "b"]));
        outbox.acknowledge(2);
        outbox.acknowledge(1);
        assert_eq!(lines(&outbox), (3, vec!["b"]));
        outbox.acknowledge(9);
        assert_eq!((lines(&outbox), outbox.bytes), ((4, vec![]), 0));
    }

    #[test]
    fn a_member_is_announced_until_its_leaving_is_acknowledged() {
        let mut outbox = Outbox::new(10_000);
        for message in [joins(1), joins(2), leaves(1)] {
            outbox.try_push(message).unwrap();
        }
        assert!(announced(&outbox).is_empty());
        outbox.acknowledge(2);
        assert_eq!(announced(&outbox), [1, 2]);
        outbox.acknowledge(3);
        assert_eq!(announced(&outbox), [2]);
    }

    #[test]
    fn a_full_outbox_refuses_messages_but_no_joins_and_leaves() {
        let mut outbox = Outbox::new(1000);
        outbox.try_push(joins(1)).unwrap();
        let sent = fill(&mut outbox);
        assert!((1..10).contains(&sent), "{sent}");
        for message in [joins(2), joins(3), leaves(3), leaves(1)] {
            outbox.try_push(message).unwrap();
        }
        assert_eq!(outbox.try_push(sends(2, "lost")).unwrap_err().line, "lost");
        // The join of 2 is deferred, and that of 3 cancelled by its leave.
        assert_eq!((outbox.len(), outbox.deferred_joins.len()), (sent + 2, 1));
        outbox.acknowledge(u64::MAX);
        assert_eq!(lines(&outbox).1, ["2 joined"]);
        outbox.try_push(sends(2, "kept")).unwrap();
        assert_eq!(lines(&outbox).1, ["2 joined", "kept"]);
    }

    #[test]
    fn joins_and_leaves_do_not_exceed_the_capacity() {
        let mut outbox = Outbox::new(1000);
        fill(&mut outbox);
        let full = outbox.bytes;
        for member in 0..10_000 {
            outbox.try_push(joins(member)).unwrap();
            outbox.try_push(leaves(member)).unwrap();
        }
        assert_eq!((outbox.bytes, outbox.deferred_joins.len()), (full, 0));
    }
}
