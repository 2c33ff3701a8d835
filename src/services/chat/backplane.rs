//! What takes a line to everybody in a room, on whichever server they are: [`Backplane`].

use std::fmt;

use super::audience::Audience;
use crate::{MemberId, Result};

/// Takes what is said in a room to everybody in it, on whichever server they are, in one and the
/// same order.
///
/// [`Local`] is for a room with one server, `Redis` (with the cargo feature `redis`) for one with
/// many. One of your own, over another broker, is given each [`Message`] of this server's
/// members, and hands the lines of all servers to its [`Audience`]:
///
/// ```
/// use socketserver::services::{Audience, Backplane, Chat, Message};
///
/// /// Everybody shouts.
/// #[derive(Debug, Default)]
/// struct Shouting(Option<Audience>);
///
/// impl Backplane for Shouting {
///     fn open(&mut self, audience: Audience) -> socketserver::Result<()> {
///         self.0 = Some(audience);
///         Ok(())
///     }
///
///     fn publish(&self, message: Message) {
///         if let Some(audience) = &self.0 {
///             audience.deliver(&message.line.to_uppercase(), Some(message.author));
///         }
///     }
/// }
///
/// let chat = Chat::with_backplane(Shouting::default())?;
/// # Ok::<(), socketserver::Error>(())
/// ```
pub trait Backplane: fmt::Debug + Send + Sync + 'static {
    /// Called once, before anything is published. From now on all that is said in the room, what
    /// this server's own members say included, is delivered to this audience.
    ///
    /// # Errors
    /// When the backplane is not there: [`Error::Backplane`](crate::Error::Backplane).
    fn open(&mut self, audience: Audience) -> Result<()>;

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
    pub author: MemberId,
    /// What all others read, without its end.
    pub line: String,
    /// Whether the member comes or goes with it.
    pub presence: Presence,
}

/// What a [`Message`] makes of its author.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// Somebody new is in the room.
    Joins {
        /// What the others are to read in case that its server vanishes, and cannot say itself
        /// that it left.
        parting: String,
    },
    /// Who was there still is.
    Stays,
    /// It is gone.
    Leaves,
}

/// The backplane of a room with one server: nothing at all.
#[derive(Debug, Default)]
pub struct Local {
    audience: Audience,
}

impl Local {
    pub(super) fn of(audience: Audience) -> Local {
        Local { audience }
    }
}

impl Backplane for Local {
    fn open(&mut self, audience: Audience) -> Result<()> {
        self.audience = audience;
        Ok(())
    }

    fn publish(&self, message: Message) {
        self.audience.deliver(&message.line, Some(message.author));
    }
}
