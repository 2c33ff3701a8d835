//! A chat room, on one server or on several.

mod backplane;
mod local_members;
mod printable;

use std::fmt;
use std::io::Write;
use std::sync::Arc;

pub use backplane::{Backplane, Kind, Local, Message};
pub use local_members::LocalMembers;
pub use printable::{chat_line, printable};

use super::Telnet;
use crate::{Broadcast, Connection, Error, HandlerResult, Member, Result, StreamRequestHandler};

/// Sends each line of a client to all others.
///
/// A client first receives a greeting, and all others `Client joined HOST:PORT`. A line of the
/// client goes to the others as `[HOST:PORT] line`; when it has left they receive
/// `Client left HOST:PORT`. Lines end with `\r\n`. The name of a client on a Unix socket is its
/// number, as in `unix#3`: such a socket has no address, or one that the client has chosen.
///
/// Lines are shown as [`chat_line`] returns them, so that a client can neither forge another's line
/// nor control another's terminal. The answer to a line over
/// [`max_line_length`](crate::Builder::max_line_length) is `line too long`, and the end of the
/// connection. Clients may speak [`Telnet`].
///
/// The room is on this server alone, unless it has a [`Backplane`]: then it is one room on several
/// servers, and all members receive all lines in the same order.
///
/// Members share memory, so the chat does not work under [`Forking`](crate::Forking) or
/// [`Prefork`](crate::Prefork). Under
/// [`Sequential`](crate::Sequential) it has one member at a time.
///
/// ```
/// use std::time::Duration;
/// use socketserver::{ThreadingTcpServer, services::Chat};
///
/// let chat = Chat::new().greeting("Hi!\r\n").on_message(|line| println!("{line}"));
/// let server = ThreadingTcpServer::bind("127.0.0.1:0", chat)?.spawn()?;
/// server.stop(Duration::from_secs(5));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Debug)]
pub struct Chat {
    members: LocalMembers,
    backplane: Box<dyn Publish>,
    greeting: Arc<[u8]>,
}

impl Default for Chat {
    fn default() -> Chat {
        Chat::new()
    }
}

impl Chat {
    /// An empty room.
    pub fn new() -> Chat {
        let members = LocalMembers::default();
        Chat::on(Local::new(members.clone()), members)
    }

    /// An empty room with a backplane, which may share it with other servers.
    ///
    /// # Errors
    /// When the backplane cannot be opened.
    pub fn with_backplane<B: Backplane>(mut backplane: B) -> Result<Chat, B::Error> {
        let members = LocalMembers::default();
        backplane.open(members.clone())?;
        Ok(Chat::on(backplane, members))
    }

    fn on(backplane: impl Backplane, members: LocalMembers) -> Chat {
        let greeting = Arc::from(&b"You're connected to the chat server\r\n"[..]);
        Chat { members, backplane: Box::new(backplane), greeting }
    }

    /// What a client receives first, including the end of the line; `You're connected to the chat
    /// server` by default. Empty: nothing.
    pub fn greeting(mut self, greeting: impl AsRef<[u8]>) -> Chat {
        self.greeting = greeting.as_ref().into();
        self
    }

    /// Calls this with every line, without its end, in the order in which the members receive them.
    /// The room waits for each call, so it should be quick.
    pub fn on_message(self, observer: impl FnMut(&str) + Send + 'static) -> Chat {
        self.members.observe(Box::new(observer));
        self
    }

    /// The broadcast to the members on this server, to send them a line or to count them.
    pub fn room(&self) -> &Broadcast {
        self.members.broadcast()
    }
}

/// A [`Backplane`] without its error type, once it is open.
trait Publish: fmt::Debug + Send + Sync {
    fn publish(&self, message: Message);
}

impl<B: Backplane> Publish for B {
    fn publish(&self, message: Message) {
        Backplane::publish(self, message);
    }
}

impl StreamRequestHandler for Chat {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(&self.greeting)?;
        let member = self.room().join(connection)?;
        let result = Participant::join(self, connection, &member).relay(connection);
        member.leave();
        result
    }
}

/// A client in the room. The drop publishes that it left, also when the handler panics.
struct Participant<'chat> {
    chat: &'chat Chat,
    member: &'chat Member,
    name: String,
}

impl<'chat> Participant<'chat> {
    fn join(
        chat: &'chat Chat,
        connection: &Connection,
        member: &'chat Member,
    ) -> Participant<'chat> {
        let name = match connection.peer_addr().socket_addr() {
            Some(address) => address.to_string(),
            None => format!("unix#{}", connection.id()),
        };
        let participant = Participant { chat, member, name };
        let kind = Kind::Join { leave_message: participant.leave_message() };
        participant.publish(format!("Client joined {}", participant.name), kind);
        participant
    }

    /// Publishes the client's lines, until it leaves.
    fn relay(self, connection: &mut Connection) -> HandlerResult {
        let (mut telnet, mut line) = (Telnet::new(), Vec::new());
        loop {
            line.clear();
            match telnet.read_line(connection, &mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => self.send_line(&line),
                Err(error) if matches!(Error::of(&error), Some(Error::LineTooLong { .. })) => {
                    return Ok(connection.write_all(b"line too long\r\n")?);
                }
                Err(error) => {
                    // A client that closes its socket with unread input sends RST after its last
                    // line, which may lack its end.
                    if Error::is_disconnect(&error) && !line.is_empty() {
                        self.send_line(&line);
                    }
                    return Err(error.into());
                }
            }
        }
    }

    fn send_line(&self, line: &[u8]) {
        self.publish(format!("[{}] {}", self.name, chat_line(line)), Kind::Message);
    }

    fn leave_message(&self) -> String {
        format!("Client left {}", self.name)
    }

    fn publish(&self, line: String, kind: Kind) {
        self.chat.backplane.publish(Message { author: self.member.id(), line, kind });
    }
}

impl Drop for Participant<'_> {
    fn drop(&mut self) {
        self.publish(self.leave_message(), Kind::Leave);
    }
}
