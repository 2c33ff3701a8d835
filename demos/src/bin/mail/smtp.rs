//! An SMTP server ([RFC 5321](https://www.rfc-editor.org/rfc/rfc5321)) with SIZE, 8BITMIME and
//! PIPELINING. It accepts mail for the users of one domain, and relays none.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Zoned;
use jiff::fmt::rfc2822;
use socketserver::{CloseReason, Connection, HandlerResult, StreamRequestHandler};

use crate::command::{Command, Refusal};
use crate::data::{self, Defect};
use crate::envelope::Path;
use crate::line::{self, Line};
use crate::maildir::{Maildir, Spool};
use crate::users::{User, Users};

/// With its CRLF; RFC 5321, 4.5.3.1.4.
const MAX_COMMAND_LINE: usize = 512;
/// RFC 5321, 4.5.3.1.8.
const MAX_RECIPIENTS: usize = 100;
/// The number of refused commands after which the connection is closed.
const MAX_ERRORS: usize = 20;

pub(crate) struct Smtp {
    pub(crate) users: Arc<Users>,
    /// Of a message, in bytes.
    pub(crate) max_size: u64,
}

impl StreamRequestHandler for Smtp {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        write!(connection, "220 {} ESMTP\r\n", self.users.domain)?;
        Ok(Session { smtp: self, client: None, envelope: None, is_text_due: false }
            .serve(connection)?)
    }

    fn finish(&self, connection: &mut Connection) -> HandlerResult {
        match connection.close_reason() {
            Some(
                CloseReason::IdleTimeout | CloseReason::ReadTimeout | CloseReason::MessageTimeout,
            ) => {
                connection.write_all(b"421 this takes too long\r\n")?;
            }
            Some(CloseReason::Stopped) => connection.write_all(b"421 shutting down\r\n")?,
            _ => {}
        }
        Ok(())
    }
}

/// The state of one connection.
struct Session<'a> {
    smtp: &'a Smtp,
    client: Option<Client>,
    envelope: Option<Envelope<'a>>,
    /// Whether the last command announced a message and was refused. A client that does not wait
    /// for the reply sends the message now.
    is_text_due: bool,
}

struct Client {
    /// As [`traceable`] returns it.
    name: String,
    /// Whether it said EHLO, which allows parameters.
    is_extended: bool,
}

struct Envelope<'a> {
    sender: String,
    recipients: Vec<&'a User>,
}

/// A message that is being received, and its mailboxes.
struct Message<'a> {
    spool: Spool,
    mailboxes: Vec<&'a Maildir>,
}

type Reply = Cow<'static, str>;

impl<'a> Session<'a> {
    fn serve(&mut self, connection: &mut Connection) -> io::Result<()> {
        let mut errors = 0;
        while let Some(line) = line::read(connection, MAX_COMMAND_LINE)? {
            let (reply, last_reply) = self.answer(&line, connection)?;
            write!(connection, "{reply}\r\n")?;
            errors += usize::from(reply.starts_with('5'));
            let too_many = (errors >= MAX_ERRORS).then_some("421 too many errors");
            if let Some(last_reply) = last_reply.or(too_many) {
                return write!(connection, "{last_reply}\r\n");
            }
            if reply.starts_with("221") {
                break;
            }
        }
        Ok(())
    }

    /// The reply to a line; and a last one, if the rest of the input cannot be trusted.
    fn answer(
        &mut self,
        line: &Line,
        connection: &mut Connection,
    ) -> io::Result<(Reply, Option<Refusal>)> {
        let was_text_due = std::mem::take(&mut self.is_text_due);
        let answer = match line {
            Line::Command { text, .. } => match Command::parse(text) {
                Ok(Command::Data) => match self.begin(connection) {
                    Ok(message) => return Ok((self.receive(message, connection)?, None)),
                    Err(refusal) => Err(refusal),
                },
                Ok(command) => self.obey(command),
                Err(refusal) => Err(refusal),
            },
            Line::TooLong => Err("500 line too long"),
            Line::NotText => Err("500 not ASCII"),
            Line::BareLineEnd => Err("500 CR or LF by itself"),
        };
        let refusal = answer.as_ref().err();
        let last_reply = refusal.and_then(|refusal| self.last_reply(line, refusal, was_text_due));
        Ok((answer.unwrap_or_else(Cow::from), last_reply))
    }

    /// The last reply, after a refusal, to a client that speaks another protocol, or sends a
    /// message where none is expected: its next lines may look like commands, and are none.
    fn last_reply(&mut self, line: &Line, refusal: &str, was_text_due: bool) -> Option<Refusal> {
        let is_no_command = refusal.starts_with("500");
        match line {
            Line::BareLineEnd => Some("421 lines end in CRLF"),
            Line::Command { text, is_followed } if Command::announces_text(text) => {
                self.is_text_due = true;
                is_followed.then_some("421 text before the go-ahead")
            }
            _ if is_no_command && was_text_due => Some("421 text before the go-ahead"),
            // Such as from a browser: the body of its request may be an attacker's.
            _ if is_no_command && self.client.is_none() => Some("421 this is SMTP"),
            _ => None,
        }
    }

    fn obey(&mut self, command: Command) -> Result<Reply, Refusal> {
        match command {
            Command::Hello { name, is_extended } => {
                self.client = Some(Client { name: traceable(name), is_extended });
                self.envelope = None;
                Ok(self.welcome(is_extended).into())
            }
            Command::Mail { sender, size, has_parameters } => {
                let client = self.client.as_ref().ok_or("503 HELO first")?;
                if self.envelope.is_some() {
                    return Err("503 one message at a time");
                }
                if has_parameters && !client.is_extended {
                    return Err("555 parameters are for EHLO");
                }
                if size.is_some_and(|size| size > self.smtp.max_size) {
                    return Err("552 message too large");
                }
                let sender = match sender {
                    Path::Mailbox { written, .. } => written.to_owned(),
                    _ => String::new(),
                };
                self.envelope = Some(Envelope { sender, recipients: Vec::new() });
                Ok("250 ok".into())
            }
            Command::Recipient(path) => {
                let envelope = self.envelope.as_mut().ok_or("503 MAIL first")?;
                let recipient = self.smtp.users.recipient(&path).ok_or("550 no such user here")?;
                if envelope.recipients.len() == MAX_RECIPIENTS {
                    return Err("452 too many recipients");
                }
                envelope.recipients.push(recipient);
                Ok("250 ok".into())
            }
            Command::Reset => {
                self.envelope = None;
                Ok("250 ok".into())
            }
            Command::Noop => Ok("250 ok".into()),
            Command::Verify => Ok("252 send it, and see".into()),
            Command::Help => Ok("214 https://www.rfc-editor.org/rfc/rfc5321".into()),
            Command::Quit => Ok("221 bye".into()),
            Command::Data => Err("503 not here"),
        }
    }

    fn welcome(&self, is_extended: bool) -> String {
        let Smtp { users, max_size } = self.smtp;
        if !is_extended {
            return format!("250 {}", users.domain);
        }
        let size = format!("SIZE {max_size}");
        let lines = [&users.domain, "PIPELINING", &size, "8BITMIME"];
        lines.map(|line| format!("250-{line}\r\n")).concat() + "250 HELP"
    }

    fn begin(&mut self, connection: &Connection) -> Result<Message<'a>, Refusal> {
        let client = self.client.as_ref().ok_or("503 HELO first")?;
        let envelope = self.envelope.as_ref().ok_or("503 MAIL first")?;
        let first = envelope.recipients.first().ok_or("503 RCPT first")?;
        let spool = first.maildir.spool().and_then(|mut spool| {
            let trace = self.trace(client, &envelope.sender, spool.name(), connection);
            spool.write_all(trace.as_bytes())?;
            Ok(spool)
        });
        let spool = spool.map_err(|error| not_stored(&error))?;
        let mut mailboxes: Vec<&Maildir> = Vec::new();
        for recipient in &envelope.recipients {
            // A recipient that is named twice has one copy.
            if !mailboxes.iter().any(|mailbox| std::ptr::eq(*mailbox, &recipient.maildir)) {
                mailboxes.push(&recipient.maildir);
            }
        }
        self.envelope = None;
        Ok(Message { spool, mailboxes })
    }

    /// Receives a message and returns the reply. 250 says that it is on disk in each mailbox.
    fn receive(&self, message: Message, connection: &mut Connection) -> io::Result<Reply> {
        let Message { mut spool, mailboxes } = message;
        connection.write_all(b"354 end with CRLF, dot, CRLF\r\n")?;
        let received = connection.with_message_timeout(|connection| {
            data::receive(connection, &mut spool, self.smtp.max_size)
        })?;
        let stored = received.and_then(|()| {
            spool.deliver(&mailboxes).map_err(Defect::NotWritten)?;
            Ok(format!("250 {}", spool.name()).into())
        });
        Ok(stored.unwrap_or_else(|defect| match defect {
            Defect::BareLineEnd => "554 message with CR or LF by itself".into(),
            Defect::Nul => "554 message with NUL".into(),
            Defect::TooLarge => "552 message too large".into(),
            Defect::NotWritten(error) => not_stored(&error).into(),
        }))
    }

    /// The header fields that trace a message (RFC 5321, 4.4).
    fn trace(&self, client: &Client, sender: &str, id: &str, connection: &Connection) -> String {
        let ip = match connection.peer_addr().ip() {
            Some(IpAddr::V6(ip)) => format!("[IPv6:{ip}]"),
            Some(ip) => format!("[{ip}]"),
            None => "local".to_owned(),
        };
        let protocol = if client.is_extended { "ESMTP" } else { "SMTP" };
        let date = rfc2822::to_string(&Zoned::now()).unwrap_or_default();
        format!(
            "Return-Path: <{sender}>\r\n\
             Received: from {} ({ip})\r\n\
             \tby {} with {protocol} id {id};\r\n\
             \t{date}\r\n",
            client.name, self.smtp.users.domain
        )
    }
}

/// A client's name for a header field. What is part of neither a domain nor an address becomes `?`,
/// so that the name cannot look like another part of the field.
fn traceable(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric() && !"-_.:%[]".contains(c), "?")
}

fn not_stored(error: &io::Error) -> Refusal {
    log::error!("a message was not stored: {error}");
    "451 not stored; try again later"
}
