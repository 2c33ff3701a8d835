//! What this server's members have said, and the broker has not said that it has.

use std::collections::{BTreeMap, VecDeque};

use crate::MemberId;
use crate::services::chat::backplane::{Message, Presence};

/// What a message costs besides its text, about.
const OVERHEAD: usize = 128;

/// Messages in order, numbered from 1, up to a capacity in bytes.
///
/// What members say is refused when it is full. Their coming and going is not, or the room would
/// not know who is in it: newcomers are announced as soon as there is room, and for whoever was
/// announced there is room to say that they leave.
#[derive(Debug)]
pub(super) struct Outbox {
    capacity: usize,
    bytes: usize,
    messages: VecDeque<Message>,
    /// The number of the first of them.
    first: u64,
    /// Who is in the room, as far as the broker knows.
    announced: BTreeMap<MemberId, Message>,
    /// Who joined while it was full.
    newcomers: BTreeMap<MemberId, Message>,
}

impl Outbox {
    pub(super) fn new(capacity: usize) -> Outbox {
        Outbox {
            capacity,
            bytes: 0,
            messages: VecDeque::new(),
            first: 1,
            announced: BTreeMap::new(),
            newcomers: BTreeMap::new(),
        }
    }

    /// Takes a message, or gives it back where there is no room for it.
    pub(super) fn put(&mut self, message: Message) -> Result<(), Message> {
        let is_full = self.is_full();
        match &message.presence {
            Presence::Stays if is_full => return Err(message),
            Presence::Joins { .. } if is_full => {
                self.newcomers.insert(message.author, message);
            }
            Presence::Leaves if self.newcomers.remove(&message.author).is_some() => {}
            _ => self.push(message),
        }
        Ok(())
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages wait.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// The number of the first message.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = &Message> {
        self.messages.iter()
    }

    /// The broker has all up to this number.
    pub(super) fn acknowledge(&mut self, last: u64) {
        while self.first <= last
            && let Some(message) = self.messages.pop_front()
        {
            self.first += 1;
            self.bytes -= weight(&message);
            match message.presence {
                Presence::Joins { .. } => {
                    self.announced.insert(message.author, message);
                }
                Presence::Leaves => {
                    self.announced.remove(&message.author);
                }
                Presence::Stays => {}
            }
        }
        while !self.is_full()
            && let Some((_, message)) = self.newcomers.pop_first()
        {
            self.push(message);
        }
    }

    /// For whoever thinks that this server was dead: its members, as messages of their joining.
    pub(super) fn announced(&self) -> impl Iterator<Item = &Message> {
        self.announced.values()
    }

    fn push(&mut self, message: Message) {
        self.bytes += weight(&message);
        self.messages.push_back(message);
    }

    fn is_full(&self) -> bool {
        self.bytes > self.capacity
    }
}

fn weight(message: &Message) -> usize {
    let parting = match &message.presence {
        // There will be room for it.
        Presence::Joins { parting } => OVERHEAD + 2 * parting.len(),
        _ => 0,
    };
    OVERHEAD + message.line.len() + parting
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joins(author: u64) -> Message {
        let presence = Presence::Joins { parting: format!("{author} left") };
        Message { author: author.into(), line: format!("{author} joined"), presence }
    }

    fn says(author: u64, line: &str) -> Message {
        Message { author: author.into(), line: line.to_owned(), presence: Presence::Stays }
    }

    fn leaves(author: u64) -> Message {
        Message {
            author: author.into(),
            line: format!("{author} left"),
            presence: Presence::Leaves,
        }
    }

    fn lines(outbox: &Outbox) -> (u64, Vec<&str>) {
        (outbox.first(), outbox.messages().map(|message| message.line.as_str()).collect())
    }

    fn announced(outbox: &Outbox) -> Vec<u64> {
        outbox.announced().map(|message| message.author.into()).collect()
    }

    /// Everything that can be said until it is refused.
    fn fill(outbox: &mut Outbox) -> usize {
        (1..).find(|_| outbox.put(says(1, "x")).is_err()).unwrap() - 1
    }

    #[test]
    fn what_is_acknowledged_is_forgotten_and_numbers_go_on() {
        let mut outbox = Outbox::new(10_000);
        for message in [joins(1), says(1, "a"), says(1, "b")] {
            outbox.put(message).unwrap();
        }
        assert_eq!(lines(&outbox), (1, vec!["1 joined", "a", "b"]));
        outbox.acknowledge(2);
        outbox.acknowledge(1);
        assert_eq!(lines(&outbox), (3, vec!["b"]));
        outbox.acknowledge(9);
        assert_eq!((lines(&outbox), outbox.bytes), ((4, vec![]), 0));
    }

    #[test]
    fn whoever_was_announced_is_known_until_their_leaving_is() {
        let mut outbox = Outbox::new(10_000);
        for message in [joins(1), joins(2), leaves(1)] {
            outbox.put(message).unwrap();
        }
        assert!(announced(&outbox).is_empty());
        outbox.acknowledge(2);
        assert_eq!(announced(&outbox), [1, 2]);
        outbox.acknowledge(3);
        assert_eq!(announced(&outbox), [2]);
    }

    #[test]
    fn a_full_one_refuses_what_is_said_and_no_coming_or_going() {
        let mut outbox = Outbox::new(1000);
        outbox.put(joins(1)).unwrap();
        let said = fill(&mut outbox);
        assert!((1..10).contains(&said), "{said}");
        for message in [joins(2), joins(3), leaves(3), leaves(1)] {
            outbox.put(message).unwrap();
        }
        assert_eq!(outbox.put(says(2, "lost")).unwrap_err().line, "lost");
        // Not even a newcomer is kept twice; whoever came and went in the meantime was not there.
        assert_eq!((outbox.len(), outbox.newcomers.len()), (said + 2, 1));
        outbox.acknowledge(u64::MAX);
        assert_eq!(lines(&outbox).1, ["2 joined"]);
        outbox.put(says(2, "heard")).unwrap();
        assert_eq!(lines(&outbox).1, ["2 joined", "heard"]);
    }

    #[test]
    fn it_holds_no_more_than_its_capacity_whoever_comes_and_goes() {
        let mut outbox = Outbox::new(1000);
        fill(&mut outbox);
        let full = outbox.bytes;
        for guest in 0..10_000 {
            outbox.put(joins(guest)).unwrap();
            outbox.put(leaves(guest)).unwrap();
        }
        assert_eq!((outbox.bytes, outbox.newcomers.len()), (full, 0));
    }
}
