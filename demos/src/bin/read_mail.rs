//! A POP3 client for `mail`, and for any other server that needs no encryption. It prints the mail
//! in a mailbox, and implements the protocol itself.
//!
//! ```sh
//! cargo run -p socketserver-demos --bin mail -- --maildir /tmp/mail --user ada:secret &
//! cargo run -p socketserver-demos --bin read_mail -- --user ada --password secret
//! ```

use std::error::Error;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;
use socketserver::services::printable;

const USAGE: &str = "\
usage: read_mail --user NAME --password PASSWORD [FLAG]...

Shows all messages in a mailbox, each below a line with its number and length.

  --user NAME          whose mailbox it is
  --password PASSWORD  what opens it
  --server ADDRESS     the POP3 server's HOST:PORT [default: 127.0.0.1:1100]
  --delete             removes them, once all have been shown
  --help               this text
";

/// For each read and write.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Of an answer, in bytes. A longer line of a message is read in pieces of this size.
const MAX_LINE_LENGTH: u64 = 64 * 1024;

fn main() -> ExitCode {
    let Err(error) = run() else { return ExitCode::SUCCESS };
    eprintln!("read_mail: {}", printable(error.to_string().as_bytes()));
    ExitCode::from(if error.is::<lexopt::Error>() { 2 } else { 1 })
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut user, mut password, mut delete) = (None, None, false);
    let mut server = "127.0.0.1:1100".to_owned();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("user") => user = Some(parser.value()?.string()?),
            Long("password") => password = Some(parser.value()?.string()?),
            Long("server") => server = parser.value()?.string()?,
            Long("delete") => delete = true,
            Long("help") | Short('h') => {
                print!("{USAGE}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let missing = || lexopt::Error::from("--user and --password?");
    let mut mailbox = Mailbox::connect(&server)?;
    mailbox.ask(&format!("USER {}", user.ok_or_else(missing)?))?;
    mailbox.ask(&format!("PASS {}", password.ok_or_else(missing)?))?;
    let total = mailbox.ask("STAT")?;
    let count: usize = total.split(' ').next().unwrap_or_default().parse()?;
    for number in 1..=count {
        let about = mailbox.ask(&format!("RETR {number}"))?;
        writeln!(io::stdout(), "--- {number} of {count}: {}", printable(about.as_bytes()))?;
        mailbox.copy_text(&mut io::stdout().lock())?;
    }
    for number in 1..=if delete { count } else { 0 } {
        mailbox.ask(&format!("DELE {number}"))?;
    }
    // The server removes deleted messages only after QUIT.
    mailbox.ask("QUIT")?;
    Ok(())
}

struct Mailbox(BufReader<TcpStream>);

impl Mailbox {
    fn connect(server: &str) -> Result<Mailbox, Box<dyn Error>> {
        let stream = TcpStream::connect(server).map_err(|error| format!("{server}: {error}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut mailbox = Mailbox(BufReader::new(stream));
        mailbox.answer()?;
        Ok(mailbox)
    }

    fn ask(&mut self, command: &str) -> Result<String, Box<dyn Error>> {
        if command.contains(['\r', '\n']) {
            return Err(lexopt::Error::from("a name or password of more than one line").into());
        }
        self.0.get_mut().write_all(format!("{command}\r\n").as_bytes())?;
        self.answer()
    }

    /// The text after `+OK`; any other answer is an error.
    fn answer(&mut self) -> Result<String, Box<dyn Error>> {
        let line = self.line()?;
        let line = String::from_utf8_lossy(line.trim_ascii_end());
        match line.strip_prefix("+OK") {
            Some(text) => Ok(text.trim_start().to_owned()),
            None => Err(format!("the server says: {line}").into()),
        }
    }

    /// Writes the lines before the one that is a dot.
    fn copy_text(&mut self, output: &mut (impl Write + IsTerminal)) -> Result<(), Box<dyn Error>> {
        let mut begins_line = true;
        loop {
            let piece = self.piece()?;
            if begins_line && piece == b".\r\n" {
                return Ok(output.flush()?);
            }
            let text = if begins_line { piece.strip_prefix(b".") } else { None };
            let text = text.unwrap_or(&piece);
            begins_line = piece.ends_with(b"\n");
            // A message must not send control characters to the terminal.
            match output.is_terminal() {
                true if begins_line => writeln!(output, "{}", printable(text))?,
                true => write!(output, "{}", printable(text))?,
                false => output.write_all(text)?,
            }
        }
    }

    /// With its end.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let line = self.piece()?;
        if line.ends_with(b"\n") { Ok(line) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// A line with its end, or a part of one that is too long.
    fn piece(&mut self) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        (&mut self.0).take(MAX_LINE_LENGTH).read_until(b'\n', &mut piece)?;
        let is_cut_off = !piece.ends_with(b"\n") && (piece.len() as u64) < MAX_LINE_LENGTH;
        if is_cut_off { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(piece) }
    }
}
