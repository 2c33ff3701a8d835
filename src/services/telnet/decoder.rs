//! The commands in a Telnet client's input, and what is left of its lines.

use memchr::memchr3;

// The commands of RFC 854, and three of RFC 1184.
const EOF: u8 = 236;
const ABORT: u8 = 238;
const SE: u8 = 240;
const BRK: u8 = 243;
const IP: u8 = 244;
const AYT: u8 = 246;
const EC: u8 = 247;
const EL: u8 = 248;
const SB: u8 = 250;
const WILL: u8 = 251;
const WONT: u8 = 252;
const DO: u8 = 253;
const DONT: u8 = 254;
const IAC: u8 = 255;

/// The option of RFC 860.
const TIMING_MARK: u8 = 6;

/// The answer to `AYT`, as that of BSD's telnetd.
const YES: &[u8] = b"\r\n[Yes]\r\n";

/// Where in the input the next byte is.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    state: State,
    /// The last byte of the line is `\r`: what follows may end it.
    after_cr: bool,
    /// The bytes of the subnegotiation so far.
    subnegotiation_length: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Data,
    /// After `IAC`.
    Command,
    /// After `IAC` and one of `WILL`, `WONT`, `DO` and `DONT`.
    Option(u8),
    /// After `IAC SB`.
    Subnegotiation,
    /// After `IAC` in a subnegotiation.
    SubnegotiationCommand,
}

/// How far the decoder has come in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    LineEnded,
    /// There is a part of a line or of a command.
    Incomplete,
    /// All input was commands.
    BetweenLines,
}

impl Decoder {
    /// Takes input, at most to the end of the line; says how many bytes it has taken.
    pub(super) fn decode(
        &mut self,
        input: &[u8],
        line: &mut Unfinished<'_>,
        answers: &mut Vec<u8>,
    ) -> (usize, Progress) {
        let mut used = 0;
        while let Some(rest) = input.get(used..).filter(|rest| !rest.is_empty()) {
            if self.state == State::Data && !self.after_cr {
                let text = memchr3(b'\n', b'\r', IAC, rest).unwrap_or(rest.len());
                line.append(&rest[..text]);
                used += text;
                if text == rest.len() {
                    break;
                }
            }
            used += 1;
            if self.take(input[used - 1], line, answers) {
                return (used, Progress::LineEnded);
            }
        }
        let is_between_lines = self.state == State::Data && line.length() == 0;
        (used, if is_between_lines { Progress::BetweenLines } else { Progress::Incomplete })
    }

    /// The length of the subnegotiation whose end has not arrived; 0 if there is none.
    pub(super) fn subnegotiation_length(&self) -> usize {
        self.subnegotiation_length
    }

    /// Takes a byte. Whether it has ended the line.
    fn take(&mut self, byte: u8, line: &mut Unfinished<'_>, answers: &mut Vec<u8>) -> bool {
        let state = std::mem::take(&mut self.state);
        match (state, byte) {
            (State::Data, IAC) => self.state = State::Command,
            (State::Data, _) => return self.take_data(byte, line),
            (State::Command, WILL..=DONT) => self.state = State::Option(byte),
            (State::Command, SB) => self.state = State::Subnegotiation,
            (State::Command, EOF..=DONT) => self.obey(byte, line, answers),
            // The byte 255, or no command.
            (State::Command, _) => return self.take_data(byte, line),
            (State::Option(request), option) => answer_request(request, option, answers),
            (State::Subnegotiation, IAC) => self.state = State::SubnegotiationCommand,
            (State::SubnegotiationCommand, SE) => self.subnegotiation_length = 0,
            (State::Subnegotiation, _) | (State::SubnegotiationCommand, IAC) => {
                self.state = State::Subnegotiation;
                self.subnegotiation_length += 1;
            }
            (State::SubnegotiationCommand, _) => {
                // `IAC SE` is missing. As in BSD's telnetd, the command ends the subnegotiation.
                self.subnegotiation_length = 0;
                self.state = State::Command;
                return self.take(byte, line, answers);
            }
        }
        false
    }

    fn take_data(&mut self, byte: u8, line: &mut Unfinished<'_>) -> bool {
        let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
        let ends = byte == b'\n' || after_cr && byte == b'\0';
        line.append(&[if ends { b'\n' } else { byte }]);
        ends
    }

    fn obey(&mut self, command: u8, line: &mut Unfinished<'_>, answers: &mut Vec<u8>) {
        match command {
            AYT => answers.extend_from_slice(YES),
            EC => line.erase_character(),
            EL | IP | BRK | ABORT => line.erase(),
            _ => return,
        }
        self.after_cr &= command == AYT;
    }
}

/// Refuses an option. Each request has one answer, which is itself not answered, so that there is no
/// loop (RFC 1143).
fn answer_request(request: u8, option: u8, answers: &mut Vec<u8>) {
    let answer = match (request, option) {
        (DO, TIMING_MARK) => WILL,
        (DO, _) => WONT,
        (WILL, _) => DONT,
        // `WONT` and `DONT`: the option is not in use.
        _ => return,
    };
    answers.extend_from_slice(&[IAC, answer, option]);
}

/// A line that is being read, at the end of a buffer.
pub(super) struct Unfinished<'a> {
    buffer: &'a mut Vec<u8>,
    /// Where the line begins.
    start: usize,
}

impl Unfinished<'_> {
    pub(super) fn new(buffer: &mut Vec<u8>) -> Unfinished<'_> {
        Unfinished { start: buffer.len(), buffer }
    }

    pub(super) fn length(&self) -> usize {
        self.buffer.len() - self.start
    }

    pub(super) fn erase(&mut self) {
        self.buffer.truncate(self.start);
    }

    fn append(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Drops the last character, in UTF-8.
    fn erase_character(&mut self) {
        let is_first = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
        let last = self.buffer[self.start..].iter().rposition(is_first);
        self.buffer.truncate(self.start + last.unwrap_or(0));
    }
}
