//! Checks that all members of a room read its lines in one order.

use std::collections::VecDeque;

/// How many lines the reference member reads between two calls of `prune`.
const PRUNE_INTERVAL: usize = 4096;

/// The order in which a reference member reads the lines, and each other member's position in it.
/// The reference sends nothing, and so reads every line. Missing lines are not detected here.
pub(super) struct Order {
    reference: usize,
    /// The lines that the reference has read, without the pruned ones.
    lines: VecDeque<Line>,
    /// How many lines were pruned, since all members have read them.
    pruned: usize,
    readers: Vec<Reader>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) sender: usize,
    pub(super) number: u32,
}

#[derive(Clone, Default)]
struct Reader {
    /// How many lines of the reference are compared.
    position: usize,
    /// Lines that it has read and the reference has not.
    ahead: VecDeque<Line>,
}

impl Order {
    /// The senders are the first members. They do not read their own lines.
    pub(super) fn new(members: usize, senders: usize) -> Order {
        assert!(senders < members, "the reference must not send");
        let readers = vec![Reader::default(); members];
        Order { reference: senders, lines: VecDeque::new(), pruned: 0, readers }
    }

    /// A member has read a line.
    pub(super) fn read(&mut self, reader: usize, line: Line) -> Result<(), String> {
        if reader != self.reference {
            self.readers[reader].ahead.push_back(line);
            return self.compare(reader);
        }
        self.lines.push_back(line);
        if self.lines.len().is_multiple_of(PRUNE_INTERVAL) {
            self.prune();
        }
        Ok(())
    }

    /// The last check, after all members have read all lines.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        for reader in 0..self.readers.len() {
            self.compare(reader)?;
            if let Some(Line { sender, number }) = self.readers[reader].ahead.front() {
                return Err(format!(
                    "client {reader} read line {number} of client {sender} after the last line of \
                     client {}",
                    self.reference
                ));
            }
        }
        Ok(())
    }

    /// Compares as far as the reference has read.
    fn compare(&mut self, reader: usize) -> Result<(), String> {
        let Reader { position, ahead } = &mut self.readers[reader];
        while let Some(&line) = ahead.front()
            && let Some(&expected) = self.lines.get(*position - self.pruned)
        {
            *position += 1;
            if expected.sender == reader {
                continue;
            }
            if line != expected {
                return Err(format!(
                    "not one order: client {reader} read line {} of client {} where client {} \
                     read line {} of client {}",
                    line.number, line.sender, self.reference, expected.number, expected.sender
                ));
            }
            ahead.pop_front();
        }
        Ok(())
    }

    fn prune(&mut self) {
        let others =
            self.readers.iter().enumerate().filter(|(reader, _)| *reader != self.reference);
        let slowest = others.map(|(_, reader)| reader.position).min().unwrap_or(self.pruned);
        self.lines.drain(..slowest - self.pruned);
        self.pruned = slowest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clients 0 and 1 send, 2 is the reference, 3 only reads. Each comes with the lines it reads.
    fn read(all: &[(usize, &[(usize, u32)])]) -> Result<(), String> {
        let mut order = Order::new(4, 2);
        for (reader, lines) in all {
            for &(sender, number) in *lines {
                order.read(*reader, Line { sender, number })?;
            }
        }
        order.finish()
    }

    const ALL: &[(usize, u32)] = &[(0, 0), (1, 0), (1, 1), (0, 1)];

    #[test]
    fn one_order_passes_whichever_member_is_ahead() {
        let (without_0, without_1) = (&[(1, 0), (1, 1)][..], &[(0, 0), (0, 1)][..]);
        for all in [
            [(2, ALL), (3, ALL), (0, without_0), (1, without_1)],
            [(0, without_0), (1, without_1), (3, ALL), (2, ALL)],
        ] {
            assert_eq!(read(&all), Ok(()));
        }
    }

    #[test]
    fn two_lines_swapped_for_one_member_are_an_error() {
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
    fn a_line_that_the_reference_never_read_is_an_error() {
        let error = read(&[(2, &ALL[..3]), (3, ALL)]).unwrap_err();
        assert!(error.contains("client 3 read line 1 of client 0 after the last"), "{error}");
    }

    #[test]
    fn lines_that_all_members_have_read_are_pruned() {
        let mut order = Order::new(4, 2);
        for number in 0..5 * PRUNE_INTERVAL as u32 {
            for (sender, other) in [(0, 1), (1, 0)] {
                for reader in [2, 3, other] {
                    order.read(reader, Line { sender, number }).unwrap();
                }
            }
        }
        assert!(order.lines.len() <= PRUNE_INTERVAL, "{}", order.lines.len());
        order.finish().unwrap();
    }
}
