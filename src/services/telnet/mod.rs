//! Lines of clients that speak Telnet: [`Telnet`].

mod decoder;

use std::io::{self, BufRead, Write};

use crate::Connection;
use decoder::{Decoder, Progress, Unfinished};

/// Reads lines of a client that may be `telnet` or PuTTY ([RFC 854]): its commands are answered, and
/// are no part of a line.
///
/// It holds what a command that has arrived in part needs, and stands beside the connection, for as
/// long as that lasts. A client that sends no commands, as `nc` does, sees no difference: what this
/// sends are answers.
///
/// | the client sends | effect |
/// | --- | --- |
/// | `DO`, `WILL` | refused by `WONT` and `DONT`: no option is in use ([RFC 1143]) |
/// | `DO TIMING-MARK` | answered by `WILL TIMING-MARK` ([RFC 860]). `telnet` sends it after Ctrl-C, and shows no output until it is answered |
/// | `WONT`, `DONT` | none: they are answers, or say what holds anyway |
/// | `SB` to `SE` | skipped: no option is in use |
/// | `AYT` (are you there) | the answer `[Yes]`, on a line of its own |
/// | `IP`, `BRK`, `ABORT` (Ctrl-C) | the line that has arrived in part is dropped |
/// | `EC`, `EL` (erase character, line) | the last character of that line is dropped; the whole |
/// | `IAC IAC` | the byte 255 |
/// | other commands | none |
/// | `IAC` before what is no command | none. The Data Mark of a Synch is urgent data, which is no part of the input, and leaves its `IAC` behind |
///
/// What is written to the connection is sent as it is. Text has no byte 255, the only one that Telnet
/// would have doubled.
///
/// ```
/// use std::io::Write;
/// use socketserver::services::{Telnet, printable};
/// use socketserver::{Connection, HandlerResult, StreamRequestHandler};
///
/// struct Greeter;
///
/// impl StreamRequestHandler for Greeter {
///     fn handle(&self, connection: &mut Connection) -> HandlerResult {
///         let (mut telnet, mut line) = (Telnet::new(), Vec::new());
///         while telnet.read_line(connection, &mut line)? > 0 {
///             write!(connection, "Hello, {}!\r\n", printable(&line))?;
///             line.clear();
///         }
///         Ok(())
///     }
/// }
///
/// // `DO ECHO`; `ada`; Enter, as `telnet` sends it without line editing.
/// let mut connection = Connection::in_memory(b"\xff\xfd\x01ada\r\0");
/// Greeter.handle(connection.as_mut()).unwrap();
/// assert_eq!(connection.output(), b"\xff\xfc\x01Hello, ada!\r\n");
/// ```
///
/// [RFC 854]: https://www.rfc-editor.org/rfc/rfc854
/// [RFC 860]: https://www.rfc-editor.org/rfc/rfc860
/// [RFC 1143]: https://www.rfc-editor.org/rfc/rfc1143
#[derive(Debug, Default)]
pub struct Telnet {
    decoder: Decoder,
}

impl Telnet {
    /// For a connection of which nothing was read yet.
    pub fn new() -> Telnet {
        Telnet::default()
    }

    /// Reads a line and appends it to `line`; returns its length, 0 at EOF. It is
    /// [`Connection::read_line`] without the commands, with the same limit and timeouts. A line ends
    /// with `\n`, `\r\n`, or `\r\0`, of which `\r\n` is appended. The last line before EOF may lack its
    /// end.
    ///
    /// The [`message_timeout`](crate::Builder::message_timeout) of a line begins with its first byte. A
    /// command between two lines is a message of its own: a client that sends `NOP` now and then to keep
    /// its connection open is idle.
    ///
    /// # Errors
    /// Those of [`Connection::read_line`], and of a write, of an answer. `InvalidData` with
    /// [`Error::LineTooLong`](crate::Error::LineTooLong) also when a subnegotiation is longer than a line
    /// may be.
    pub fn read_line(
        &mut self,
        connection: &mut Connection,
        line: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let mut unfinished = Unfinished::new(line);
        loop {
            let read = connection
                .with_message_timeout(|connection| self.read_message(connection, &mut unfinished));
            if read? == Progress::LineEnded {
                return Ok(unfinished.length());
            }
        }
    }

    /// Reads to the end of the line, or to where nothing of a line and no part of a command is left.
    fn read_message(
        &mut self,
        connection: &mut Connection,
        line: &mut Unfinished<'_>,
    ) -> io::Result<Progress> {
        let mut answers = Vec::new();
        loop {
            let input = connection.fill_buf()?;
            if input.is_empty() {
                return Ok(Progress::LineEnded);
            }
            let (used, progress) = self.decoder.decode(input, line, &mut answers);
            connection.consume(used);
            connection.write_all(&answers)?;
            answers.clear();
            let length = line.length().max(self.decoder.subnegotiation_length());
            if let Err(error) = connection.check_line_length(length) {
                line.erase();
                return Err(error);
            }
            if progress != Progress::Incomplete {
                return Ok(progress);
            }
        }
    }
}
