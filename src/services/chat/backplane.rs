//! How lines reach all members of a room, on one server or on several: [`Backplane`].

use std::convert::Infallible;
use std::fmt;

use super::local_members::LocalMembers;
use crate::MemberId;

/// Delivers each line of a room to the members on all of its servers, in one order.
///
/// [`Local`] is for a room on one server, the crate `socketserver-redis` for one on several. A
/// backplane over another broker sends each [`Message`] of this server's members there, and
/// delivers the lines of all servers to its [`LocalMembers`]:
///
/// ```
/// use std::convert::Infallible;
/// use socketserver::extend::{Backplane, LocalMembers, Message};
/// use socketserver::services::Chat;
///
/// /// Delivers lines in upper case.
/// #[derive(Debug, Default)]
/// struct UpperCase(Option<LocalMembers>);
///
/// impl Backplane for UpperCase {
///     type Error = Infallible;
///
///     fn open(&mut self, members: LocalMembers) -> Result<(), Infallible> {
///         self.0 = Some(members);
///         Ok(())
///     }
///
///     fn publish(&self, message: Message) {
///         if let Some(members) = &self.0 {
///             members.deliver(&message.line.to_uppercase(), Some(message.author));
///         }
///     }
/// }
///
/// let chat = Chat::with_backplane(UpperCase::default())?;
/// # Ok::<(), Infallible>(())
/// ```
pub trait Backplane: fmt::Debug + Send + Sync + 'static {
    /// Why the backplane cannot be opened; [`Infallible`] if it always can.
    type Error;

    /// Called once, before the first message is published. From then on the backplane delivers all
    /// lines of the room to these members, those that they publish themselves included.
    ///
    /// # Errors
    /// When the backplane cannot be reached, or refuses.
    fn open(&mut self, members: LocalMembers) -> Result<(), Self::Error>;

    /// Takes a message of one of this server's members. Called on the thread of the member's
    /// connection, which should wait only while the backplane has too much to send.
    fn publish(&self, message: Message);
}

/// A line of a member on this server, or a notice that it joined or left.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// The number of the member on this server, [`Member::id`](crate::Member::id). The member
    /// itself does not receive the line.
    pub author: MemberId,
    /// The line for all others, without its end.
    pub line: String,
    /// What the line is.
    pub kind: Kind,
}

impl Message {
    /// A message with these fields, for a backplane that publishes through another one, and for
    /// tests of a backplane.
    pub fn new(author: MemberId, line: impl Into<String>, kind: Kind) -> Message {
        Message { author, line: line.into(), kind }
    }
}

/// What a [`Message`] is. A backplane treats a kind that it does not know as
/// [`Message`](Kind::Message).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The author has joined the room.
    Join {
        /// The line that the others receive if the author's server fails, and cannot publish a
        /// [`Leave`](Kind::Leave).
        leave_message: String,
    },
    /// The author has sent a line.
    Message,
    /// The author has left the room.
    Leave,
}

/// The backplane of a room on one server. It delivers each line at once.
#[derive(Debug, Default)]
pub struct Local {
    members: LocalMembers,
}

impl Local {
    pub(super) fn new(members: LocalMembers) -> Local {
        Local { members }
    }
}

impl Backplane for Local {
    type Error = Infallible;

    fn open(&mut self, members: LocalMembers) -> Result<(), Infallible> {
        self.members = members;
        Ok(())
    }

    fn publish(&self, message: Message) {
        self.members.deliver(&message.line, Some(message.author));
    }
}
