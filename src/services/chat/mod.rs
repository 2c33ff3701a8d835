//! A chat room, on one server or on many.

mod audience;
mod backplane;
mod printable;
#[cfg(feature = "redis")]
mod redis;

use std::io::Write;
use std::sync::Arc;

pub use audience::Audience;
pub use backplane::{Backplane, Local, Message, Presence};
pub use printable::printable;
#[cfg(feature = "redis")]
pub use redis::Redis;

use crate::{Broadcast, Connection, Error, HandlerResult, Member, Result, StreamRequestHandler};

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
    audience: Audience,
    backplane: Box<dyn Backplane>,
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
        let audience = Audience::default();
        Chat::on(Local::of(audience.clone()), audience)
    }

    /// A room that may have other servers too.
    ///
    /// # Errors
    /// When the backplane is not there.
    pub fn with_backplane(mut backplane: impl Backplane) -> Result<Chat> {
        let audience = Audience::default();
        backplane.open(audience.clone())?;
        Ok(Chat::on(backplane, audience))
    }

    fn on(backplane: impl Backplane, audience: Audience) -> Chat {
        let greeting = Arc::from(&b"You're connected to the chat server\r\n"[..]);
        Chat { audience, backplane: Box::new(backplane), greeting }
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
        self.audience.observe(Box::new(observer));
        self
    }

    /// The broadcast behind the room: to say something to everybody at this server, or to ask how
    /// many there are.
    pub fn room(&self) -> &Broadcast {
        self.audience.members()
    }
}

impl StreamRequestHandler for Chat {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        connection.write_all(&self.greeting)?;
        let member = self.room().join(connection)?;
        let result = Guest::enter(self, connection, &member).relay(connection);
        member.leave();
        result
    }
}

/// Somebody in the room; the others are told when this is dropped, however that happens.
struct Guest<'chat> {
    chat: &'chat Chat,
    member: &'chat Member,
    name: String,
}

impl<'chat> Guest<'chat> {
    fn enter(chat: &'chat Chat, connection: &Connection, member: &'chat Member) -> Guest<'chat> {
        let name = match connection.peer_addr().socket_addr() {
            Some(address) => address.to_string(),
            None => format!("unix#{}", connection.id()),
        };
        let guest = Guest { chat, member, name };
        let presence = Presence::Joins { parting: guest.parting() };
        guest.publish(format!("Client joined {}", guest.name), presence);
        guest
    }

    /// Passes on the client's lines, until it leaves.
    fn relay(self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        loop {
            line.clear();
            match connection.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => self.say(&line),
                Err(error) if matches!(Error::of(&error), Some(Error::LineTooLong { .. })) => {
                    return Ok(connection.write_all(b"line too long\r\n")?);
                }
                Err(error) => {
                    // A client that closes its socket with unread input sends RST after its last
                    // line.
                    if Error::is_disconnect(&error) && !line.is_empty() {
                        self.say(&line);
                    }
                    return Err(error.into());
                }
            }
        }
    }

    fn say(&self, line: &[u8]) {
        self.publish(format!("[{}] {}", self.name, printable(line)), Presence::Stays);
    }

    fn parting(&self) -> String {
        format!("Client left {}", self.name)
    }

    fn publish(&self, line: String, presence: Presence) {
        self.chat.backplane.publish(Message { author: self.member.id(), line, presence });
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.publish(self.parting(), Presence::Leaves);
    }
}
