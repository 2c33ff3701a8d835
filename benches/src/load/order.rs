//! Whether all members of a room read its lines in one and the same order.

use std::collections::VecDeque;

/// After how many lines those are forgotten that everybody has read.
const KEPT: usize = 4096;

/// The order in which a member reads the lines who sends none, and so reads all of them; and how
/// far each of the others is in it. That nothing is missing is for others to see.
pub(super) struct Order {
    witness: usize,
    /// What the witness has read, but for what everybody has,
    lines: VecDeque<Line>,
    /// which is so many lines.
    forgotten: usize,
    readers: Vec<Reader>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) sender: usize,
    pub(super) number: u32,
}

#[derive(Clone, Default)]
struct Reader {
    /// How many of the lines are compared.
    place: usize,
    /// What it read before the witness did.
    ahead: VecDeque<Line>,
}

impl Order {
    /// The senders are the first of the members; they do not read their own lines.
    pub(super) fn new(members: usize, senders: usize) -> Order {
        assert!(senders < members, "one who sends nothing reads everything");
        let readers = vec![Reader::default(); members];
        Order { witness: senders, lines: VecDeque::new(), forgotten: 0, readers }
    }

    /// Somebody reads a line.
    pub(super) fn read(&mut self, reader: usize, line: Line) -> Result<(), String> {
        if reader != self.witness {
            self.readers[reader].ahead.push_back(line);
            return self.compare(reader);
        }
        self.lines.push_back(line);
        if self.lines.len().is_multiple_of(KEPT) {
            self.forget();
        }
        Ok(())
    }

    /// Everybody has read everything, the witness too.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        for reader in 0..self.readers.len() {
            self.compare(reader)?;
            if let Some(Line { sender, number }) = self.readers[reader].ahead.front() {
                return Err(format!(
                    "client {reader} read line {number} of client {sender} behind all that client \
                     {} read",
                    self.witness
                ));
            }
        }
        Ok(())
    }

    /// As far as the order is known.
    fn compare(&mut self, reader: usize) -> Result<(), String> {
        let Reader { place, ahead } = &mut self.readers[reader];
        while let Some(&line) = ahead.front()
            && let Some(&expected) = self.lines.get(*place - self.forgotten)
        {
            *place += 1;
            if expected.sender == reader {
                continue;
            }
            if line != expected {
                return Err(format!(
                    "not one order: client {reader} read line {} of client {} where client {} \
                     read line {} of client {}",
                    line.number, line.sender, self.witness, expected.number, expected.sender
                ));
            }
            ahead.pop_front();
        }
        Ok(())
    }

    fn forget(&mut self) {
        let others = self.readers.iter().enumerate().filter(|(reader, _)| *reader != self.witness);
        let slowest = others.map(|(_, reader)| reader.place).min().unwrap_or(self.forgotten);
        self.lines.drain(..slowest - self.forgotten);
        self.forgotten = slowest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients 0 and 1 send, 2 is the witness, 3 reads only. Each is given with what it reads.
    fn read(all: &[(usize, &[(usize, u32)])]) -> Result<(), String> {
        let mut order = Order::new(4, 2);
        for (reader, lines) in all {
            for &(sender, number) in *lines {
                order.read(*reader, Line { sender, number })?;
            }
        }
        order.settle()
    }

    const ALL: &[(usize, u32)] = &[(0, 0), (1, 0), (1, 1), (0, 1)];

    #[test]
    fn one_order_is_one_whoever_is_ahead() {
        let (without_0, without_1) = (&[(1, 0), (1, 1)][..], &[(0, 0), (0, 1)][..]);
        for all in [
            [(2, ALL), (3, ALL), (0, without_0), (1, without_1)],
            [(0, without_0), (1, without_1), (3, ALL), (2, ALL)],
        ] {
            assert_eq!(read(&all), Ok(()));
        }
    }

    #[test]
    fn two_lines_that_change_places_for_one_member_are_noticed() {
        let swapped = &[(0, 0), (1, 0), (0, 1), (1, 1)][..];
        for all in [[(2, ALL), (3, swapped)], [(3, swapped), (2, ALL)]] {
            let error = read(&all).unwrap_err();
            assert!(
                error.starts_with("not one order: client 3 read line 1 of client 0"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_line_that_the_witness_never_read_is_noticed() {
        let error = read(&[(2, &ALL[..3]), (3, ALL)]).unwrap_err();
        assert!(error.contains("client 3 read line 1 of client 0 behind"), "{error}");
    }

    #[test]
    fn what_everybody_has_read_is_forgotten() {
        let mut order = Order::new(4, 2);
        for number in 0..5 * KEPT as u32 {
            for (sender, other) in [(0, 1), (1, 0)] {
                for reader in [2, 3, other] {
                    order.read(reader, Line { sender, number }).unwrap();
                }
            }
        }
        assert!(order.lines.len() <= KEPT, "{}", order.lines.len());
        order.settle().unwrap();
    }
}
