//! The messages: each has its sender, its number and a text of its own, so that a lost, repeated,
//! damaged or misdelivered byte is detected.

/// In how many places of the content a message's text may begin.
const OFFSETS: usize = 4099;
/// The length of the sender and the number, as hexadecimal digits.
const HEADER: usize = 16;

/// Messages of one size.
pub(crate) struct Payload {
    size: usize,
    content: Vec<u8>,
}

impl Payload {
    /// At least 18 bytes: the header, a byte of text, and the end of the line.
    pub(crate) fn new(size: usize) -> Payload {
        assert!(size > HEADER + 1, "messages of {size} bytes have no room for a header");
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let content = (0..size + OFFSETS).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            b'a' + ((state >> 33) % 26) as u8
        });
        Payload { size, content: content.collect() }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Appends a message as a line.
    pub(crate) fn append(&self, sender: usize, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&header(sender, number));
        out.extend_from_slice(self.content_of(sender, number));
        out.push(b'\n');
    }

    /// Whether the message has `part` from byte `at` on.
    pub(crate) fn continues(&self, sender: usize, number: u32, at: usize, part: &[u8]) -> bool {
        let header = header(sender, number);
        let mut rest = part;
        let mut skipped = at;
        for piece in [&header[..], self.content_of(sender, number), b"\n"] {
            let before = skipped.min(piece.len());
            let piece = &piece[before..];
            skipped -= before;
            let length = piece.len().min(rest.len());
            if rest[..length] != piece[..length] {
                return false;
            }
            rest = &rest[length..];
        }
        rest.is_empty()
    }

    /// The sender and the number of a message, given without its end of line; `None` if it is not
    /// exactly such a message.
    pub(crate) fn identify(&self, message: &[u8]) -> Option<(usize, u32)> {
        let header = str::from_utf8(message.get(..HEADER)?).ok()?;
        let sender = usize::from_str_radix(&header[..8], 16).ok()?;
        let number = u32::from_str_radix(&header[8..], 16).ok()?;
        (message.len() == self.size - 1 && self.continues(sender, number, 0, message))
            .then_some((sender, number))
    }

    fn content_of(&self, sender: usize, number: u32) -> &[u8] {
        let offset = (sender * 7919 + number as usize * 31) % OFFSETS;
        &self.content[offset..offset + self.size - HEADER - 1]
    }
}

fn header(sender: usize, number: u32) -> [u8; HEADER] {
    let mut number = (sender as u64) << 32 | u64::from(number);
    let mut digits = [0; HEADER];
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &Payload, sender: usize, number: u32) -> Vec<u8> {
        let mut message = Vec::new();
        payload.append(sender, number, &mut message);
        message
    }

    #[test]
    fn a_message_is_a_line_with_its_sender_and_number() {
        for size in [18, 64, 16 * 1024] {
            let payload = Payload::new(size);
            let line = message(&payload, 3, 77);
            assert_eq!((line.len(), line.iter().position(|&b| b == b'\n')), (size, Some(size - 1)));
            assert_eq!(payload.identify(&line[..size - 1]), Some((3, 77)));
        }
    }

    #[test]
    fn a_part_continues_its_own_message_and_no_other() {
        let payload = Payload::new(64);
        let line = message(&payload, 1, 2);
        for from in 0..64 {
            for to in from..64 {
                assert!(payload.continues(1, 2, from, &line[from..to]), "{from}..{to}");
            }
        }
        assert!(!payload.continues(1, 3, 0, &line));
        assert!(!payload.continues(2, 2, 0, &line));
        assert!(!payload.continues(1, 2, 0, &[&line[..], b"x"].concat()));
    }

    #[test]
    fn any_damaged_byte_is_detected() {
        let payload = Payload::new(64);
        let line = message(&payload, 1, 2);
        for at in 0..63 {
            let mut damaged = line.clone();
            damaged[at] ^= 1;
            assert!(!payload.continues(1, 2, 0, &damaged), "byte {at}");
            assert_eq!(payload.identify(&damaged[..63]), None, "byte {at}");
        }
        assert_eq!(payload.identify(&line[..62]), None);
    }
}
