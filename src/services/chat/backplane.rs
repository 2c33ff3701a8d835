//! What takes a line to everybody in a room, on whichever server they are: [`Backplane`].

use std::convert::Infallible;
use std::fmt;

use super::local_members::LocalMembers;

/// Takes what is said in a room to everybody in it, on whichever server they are, in one and the
/// same order.
///
/// [`Local`] is for a room with one server, the crate `socketserver-redis` for one with many. One of your own, over another broker, is given each [`Message`] of this server's
/// members, and hands the lines of all servers to its [`LocalMembers`]:
///
/// ```
/// use std::convert::Infallible;
/// use socketserver::services::{LocalMembers, Backplane, Chat, Message};
///
/// /// Everybody shouts.
/// #[derive(Debug, Default)]
/// struct Shouting(Option<LocalMembers>);
///
/// impl Backplane for Shouting {
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
/// let chat = Chat::with_backplane(Shouting::default())?;
/// # Ok::<(), Infallible>(())
/// ```
pub trait Backplane: fmt::Debug + Send + Sync + 'static {
    /// Why it cannot be opened; [`Infallible`] where it always can.
    type Error;

    /// Called once, before anything is published. From now on all that is said in the room, what
    /// this server's own members say included, is delivered to this members.
    ///
    /// # Errors
    /// When the backplane is not there.
    fn open(&mut self, members: LocalMembers) -> Result<(), Self::Error>;

    /// Takes a message of one of this server's members. Called on the thread of its connection,
    /// which should not wait for more than the backplane's being busy.
    fn publish(&self, message: Message);
}

/// What a member of a chat at this server says, or what is said of its coming and going.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Message {
    /// The member's number at this server, [`Member::id`](crate::Member::id). It is not told
    /// itself.
    pub author: u64,
    /// What all others read, without its end.
    pub line: String,
    /// Whether the member comes or goes with it.
    pub kind: Kind,
}

impl Message {
    /// A message with these fields, to test a backplane with, or to publish by another one.
    pub fn new(author: u64, line: impl Into<String>, kind: Kind) -> Message {
        Message { author, line: line.into(), kind }
    }
}

/// What a [`Message`] makes of its author.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Somebody new is in the room.
    Join {
        /// What the others are to read in case that its server vanishes, and cannot say itself
        /// that it left.
        leave_message: String,
    },
    /// Who was there still is.
    Message,
    /// It is gone.
    Leave,
}

/// The backplane of a room with one server: nothing at all.
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
