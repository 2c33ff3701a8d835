//! POP3 ([RFC 1939](https://www.rfc-editor.org/rfc/rfc1939)), with CAPA
//! ([RFC 2449](https://www.rfc-editor.org/rfc/rfc2449)), TOP and UIDL.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::sync::Arc;

use socketserver::{Connection, HandlerResult, StreamRequestHandler};

use crate::data;
use crate::line::{self, Line};
use crate::mailbox::{Mailbox, Message};
use crate::offloaded::Offloaded;
use crate::users::Users;

/// With its CRLF; RFC 2449, 4.
const MAX_COMMAND_LINE: usize = 255;
/// The number of failed logins after which the connection is closed.
const MAX_LOGINS: usize = 3;
/// The number of refused commands after which the connection is closed.
const MAX_ERRORS: usize = 20;

pub(crate) struct Pop3 {
    pub(crate) users: Arc<Users>,
}

/// On a timeout nothing is sent and no message is removed, as RFC 1939, 3 requires. Nor is one
/// removed when the connection is lost.
impl StreamRequestHandler for Pop3 {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(b"+OK POP3\r\n")?;
        let mut session = Session { users: &self.users, state: State::default(), failed_logins: 0 };
        let mut errors = 0;
        while let Some(line) = line::read(connection, MAX_COMMAND_LINE)? {
            let answer = match &line {
                Line::Command { text, .. } => session.answer(text),
                Line::TooLong => Err("line too long"),
                Line::NotText => Err("not ASCII"),
                Line::BareLineEnd => Err("lines end in CRLF"),
            };
            errors += usize::from(answer.is_err());
            match answer {
                Ok(answer) => send(connection, answer)?,
                Err(refusal) => write!(connection, "-ERR {refusal}\r\n")?,
            }
            let is_too_much = errors >= MAX_ERRORS || session.failed_logins >= MAX_LOGINS;
            if is_too_much || matches!(line, Line::BareLineEnd) || session.state.is_over() {
                break;
            }
        }
        Ok(())
    }
}

struct Session<'a> {
    users: &'a Users,
    state: State,
    failed_logins: usize,
}

/// RFC 1939 calls the first two AUTHORIZATION and TRANSACTION. UPDATE is the step from the second
/// to the last.
enum State {
    LoggedOut { name: Option<String> },
    LoggedIn(Mailbox),
    Over,
}

/// The text after `+OK`, and the lines that follow.
struct Answer {
    text: String,
    more: More,
}

enum More {
    Nothing,
    Lines(Vec<String>),
    /// A message, and how many lines of its body; `None` is all.
    Message(BufReader<Offloaded<File>>, Option<u64>),
}

/// The text after `-ERR`.
type Refusal = &'static str;

const CAPABILITIES: [&str; 6] =
    ["TOP", "USER", "UIDL", "PIPELINING", "RESP-CODES", "AUTH-RESP-CODE"];

impl Session<'_> {
    fn answer(&mut self, line: &str) -> Result<Answer, Refusal> {
        let (verb, argument) = match line.split_once(' ') {
            Some((verb, argument)) => (verb.to_ascii_uppercase(), Some(argument)),
            None => (line.to_ascii_uppercase(), None),
        };
        let argument = match &*verb {
            "PASS" => argument,
            // Trailing spaces are tolerated, except at the end of a password.
            _ => argument.map(|text| text.trim_end_matches(' ')).filter(|text| !text.is_empty()),
        };
        match (&*verb, argument) {
            ("CAPA", None) => Ok(lines("capabilities", CAPABILITIES.map(str::to_owned).to_vec())),
            ("QUIT", None) => self.quit(),
            (verb, argument) => match &mut self.state {
                State::LoggedIn(mailbox) => transact(mailbox, verb, argument),
                State::LoggedOut { .. } => self.log_in(verb, argument),
                State::Over => Err("it is over"),
            },
        }
    }

    fn log_in(&mut self, verb: &str, argument: Option<&str>) -> Result<Answer, Refusal> {
        let State::LoggedOut { name } = &mut self.state else { return Err("logged in already") };
        match (verb, argument) {
            ("USER", Some(user)) => {
                // The answer is the same for a user that does not exist.
                *name = Some(user.to_owned());
                Ok(text("password?"))
            }
            // The rest of the line is the password, spaces included.
            ("PASS", Some(password)) => {
                let name = name.take().ok_or("USER first")?;
                let Some(user) = self.users.log_in(&name, password) else {
                    self.failed_logins += 1;
                    return Err("[AUTH] wrong name or password");
                };
                match Mailbox::open(&user.maildir) {
                    Ok(Some(mailbox)) => {
                        let count = mailbox.messages.len();
                        self.state = State::LoggedIn(mailbox);
                        Ok(text(format!("{count} messages")))
                    }
                    Ok(None) => Err("[IN-USE] the mailbox is open in another session"),
                    Err(error) => Err(failed(&error)),
                }
            }
            _ => Err("not a command for now"),
        }
    }

    /// Removes the messages and releases the lock before the answer is sent, so that a client that
    /// has read the answer can log in again.
    fn quit(&mut self) -> Result<Answer, Refusal> {
        match std::mem::replace(&mut self.state, State::Over) {
            State::LoggedIn(mailbox) => {
                mailbox.update().map_err(|error| {
                    log::error!("a message was not removed: {error}");
                    "some deleted messages not removed"
                })?;
            }
            State::LoggedOut { .. } | State::Over => {}
        }
        Ok(text("bye"))
    }
}

impl State {
    fn is_over(&self) -> bool {
        matches!(self, State::Over)
    }
}

impl Default for State {
    fn default() -> State {
        State::LoggedOut { name: None }
    }
}

fn transact(mailbox: &mut Mailbox, verb: &str, argument: Option<&str>) -> Result<Answer, Refusal> {
    match (verb, argument) {
        ("NOOP", None) => Ok(text("")),
        ("STAT", None) => {
            let (count, size) = total(mailbox);
            Ok(text(format!("{count} {size}")))
        }
        ("LIST", None) => {
            let (count, size) = total(mailbox);
            let sizes = listed(mailbox, |message| message.size.to_string());
            Ok(lines(&format!("{count} messages ({size} octets)"), sizes))
        }
        ("LIST", Some(number)) => {
            let message = find(mailbox, number)?;
            Ok(text(format!("{number} {}", message.size)))
        }
        ("UIDL", None) => {
            Ok(lines("unique ids", listed(mailbox, |message| message.unique_id.clone())))
        }
        ("UIDL", Some(number)) => {
            let message = find(mailbox, number)?;
            Ok(text(format!("{number} {}", message.unique_id)))
        }
        ("RETR", Some(number)) => open(find(mailbox, number)?, None),
        ("TOP", Some(arguments)) => {
            let (number, body_lines) = arguments.split_once(' ').ok_or(SYNTAX)?;
            open(find(mailbox, number)?, Some(self::number(body_lines)?))
        }
        ("DELE", Some(number)) => {
            find(mailbox, number)?.is_deleted = true;
            Ok(text("deleted"))
        }
        ("RSET", None) => {
            mailbox.messages.iter_mut().for_each(|message| message.is_deleted = false);
            Ok(text(""))
        }
        _ => Err("not a command for now"),
    }
}

const SYNTAX: Refusal = "syntax error";

/// The messages that are left, and their size.
fn total(mailbox: &Mailbox) -> (usize, u64) {
    let left = || mailbox.messages.iter().filter(|message| !message.is_deleted);
    (left().count(), left().map(|message| message.size).sum())
}

fn listed(mailbox: &Mailbox, what: impl Fn(&Message) -> String) -> Vec<String> {
    let numbered = (1..).zip(&mailbox.messages).filter(|(_, message)| !message.is_deleted);
    numbered.map(|(number, message): (usize, _)| format!("{number} {}", what(message))).collect()
}

fn find<'a>(mailbox: &'a mut Mailbox, text: &str) -> Result<&'a mut Message, Refusal> {
    let index = usize::try_from(number(text)?).ok().and_then(|number| number.checked_sub(1));
    let message = index.and_then(|index| mailbox.messages.get_mut(index));
    message.filter(|message| !message.is_deleted).ok_or("no such message")
}

fn number(text: &str) -> Result<u64, Refusal> {
    // `parse` would also accept a plus sign.
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or(SYNTAX)
}

fn open(message: &Message, body_lines: Option<u64>) -> Result<Answer, Refusal> {
    let file = message.open().map_err(|error| failed(&error))?;
    let text = format!("{} octets", message.size);
    Ok(Answer { text, more: More::Message(file, body_lines) })
}

fn failed(error: &io::Error) -> Refusal {
    log::error!("a mailbox cannot be read: {error}");
    "[SYS/TEMP] the mailbox cannot be read"
}

fn text(text: impl Into<String>) -> Answer {
    Answer { text: text.into(), more: More::Nothing }
}

fn lines(text: &str, lines: Vec<String>) -> Answer {
    Answer { text: text.to_owned(), more: More::Lines(lines) }
}

fn send(connection: &mut Connection, answer: Answer) -> io::Result<()> {
    let Answer { text, more } = answer;
    write!(connection, "+OK{}{text}\r\n", if text.is_empty() { "" } else { " " })?;
    match more {
        More::Nothing => Ok(()),
        More::Lines(lines) => {
            lines.iter().try_for_each(|line| write!(connection, "{line}\r\n"))?;
            connection.write_all(b".\r\n")
        }
        More::Message(mut file, body_lines) => data::send(&mut file, connection, body_lines),
    }
}
