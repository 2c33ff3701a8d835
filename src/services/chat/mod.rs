//! A chat room, on one server or on many.

mod backplane;
mod local_members;
mod printable;

use std::fmt;
use std::io::Write;
use std::sync::Arc;

pub use backplane::{Backplane, Kind, Local, Message};
pub use local_members::LocalMembers;
pub use printable::printable;

use crate::{
    Broadcast, Connection, Error, HandlerResult, Member, Result, StreamRequestHandler, is_hang_up,
};

/// Passes on what each client types to all others, line by line.
///
/// A client is greeted; everyone else is told `Client joined HOST:PORT`. A line from it goes to
/// everyone else as `[HOST:PORT] line`, and when it is gone they are told `Client left HOST:PORT`.
/// Lines end with `\r\n`. A client on a Unix socket, which has no address or one of its own choice,
/// goes by its number, as `unix#3`.
///
/// What a client sends is made [`printable`] first, so that nobody can forge another's line or
/// drive another's terminal. A line over [`max_line_length`](crate::Builder::max_line_length) is
/// answered `line too long`, and the connection closed.
///
/// The room is this server's own, unless it has a [`Backplane`]: then it is one room on many
/// servers, and all members read all lines in the same order, on whichever server they are.
///
/// Members must share memory, so there is no chat under [`Forking`](crate::Forking), nor a useful
/// one under [`Sequential`](crate::Sequential).
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

    /// A room that may have other servers too.
    ///
    /// # Errors
    /// When the backplane is not there.
    pub fn with_backplane<B: Backplane>(mut backplane: B) -> Result<Chat, B::Error> {
        let members = LocalMembers::default();
        backplane.open(members.clone())?;
        Ok(Chat::on(backplane, members))
    }

    fn on(backplane: impl Backplane, members: LocalMembers) -> Chat {
        let greeting = Arc::from(&b"You're connected to the chat server\r\n"[..]);
        Chat { members, backplane: Box::new(backplane), greeting }
    }

    /// What a client is told first, its end of line included; `You're connected to the chat
    /// server` by default. Empty: nothing.
    pub fn greeting(mut self, greeting: impl AsRef<[u8]>) -> Chat {
        self.greeting = greeting.as_ref().into();
        self
    }

    /// Sees every notice and message, without its end of line, in the order in which members see
    /// them. The room waits for it, so it should be quick.
    pub fn on_message(self, observer: impl FnMut(&str) + Send + 'static) -> Chat {
        self.members.observe(Box::new(observer));
        self
    }

    /// The broadcast behind the room: to say something to everybody at this server, or to ask how
    /// many there are.
    pub fn room(&self) -> &Broadcast {
        self.members.broadcast()
    }
}

/// A [`Backplane`] that is open, whatever its errors are.
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
        let participant = Participant::join(self, connection)?;
        let mut line = Vec::new();
        loop {
            line.clear();
            match connection.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => participant.send_line(&line),
                Err(error) if matches!(Error::of(&error), Some(Error::LineTooLong { .. })) => {
                    return Ok(connection.write_all(b"line too long\r\n")?);
                }
                Err(error) => {
                    // A client that closes with something unread resets the connection, behind
                    // its last words.
                    if is_hang_up(&error) && !line.is_empty() {
                        participant.send_line(&line);
                    }
                    return Err(error.into());
                }
            }
        }
    }
}

/// Somebody in the room; the others are told when this is dropped, however that happens.
struct Participant<'chat> {
    chat: &'chat Chat,
    member: Member,
    name: String,
}

impl Participant<'_> {
    fn join<'chat>(chat: &'chat Chat, connection: &mut Connection) -> Result<Participant<'chat>> {
        let name = match connection.peer_addr().socket_addr() {
            Some(address) => address.to_string(),
            None => format!("unix#{}", connection.id()),
        };
        let participant = Participant { chat, member: chat.room().join(connection)?, name };
        let kind = Kind::Join { leave_message: participant.leave_message() };
        participant.publish(format!("Client joined {}", participant.name), kind);
        Ok(participant)
    }

    fn send_line(&self, line: &[u8]) {
        self.publish(format!("[{}] {}", self.name, printable(line)), Kind::Message);
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
