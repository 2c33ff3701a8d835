//! The numbers of connections, of listeners and of broadcast members, each a type of its own.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl From<u64> for $name {
            fn from(number: u64) -> $name {
                $name(number)
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> u64 {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<$name, ParseIntError> {
                text.parse().map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// The number of a connection, or of a datagram request, unique within its server: 1 is the
    /// first. See [`Connection::id`](crate::Connection::id) and
    /// [`ServerHandle::disconnect`](crate::ServerHandle::disconnect).
    ///
    /// It converts to and from `u64` and text, to be typed by an operator for instance:
    ///
    /// ```
    /// use socketserver::ConnectionId;
    ///
    /// let id: ConnectionId = "17".parse()?;
    /// assert_eq!(id, ConnectionId::from(17));
    /// assert_eq!(id.to_string(), "17");
    /// # Ok::<(), std::num::ParseIntError>(())
    /// ```
    ConnectionId
}

id! {
    /// The number of a listener, unique within its server: 1 is the one that the server was bound
    /// to. See [`ServerHandle::listeners`](crate::ServerHandle::listeners) and
    /// [`ServerHandle::close_listener`](crate::ServerHandle::close_listener).
    ///
    /// It converts to and from `u64` and text, as a [`ConnectionId`] does.
    ListenerId
}

id! {
    /// The number of a [`Member`](crate::Member), unique within its
    /// [`Broadcast`](crate::Broadcast): 1 is the first.
    ///
    /// It converts to and from `u64` and text, to be sent to another process for instance. It is
    /// no [`ConnectionId`]:
    ///
    /// ```compile_fail,E0308
    /// use socketserver::{MemberId, ServerHandle};
    ///
    /// fn disconnect(server: &ServerHandle, member: MemberId) {
    ///     server.disconnect(member);
    /// }
    /// ```
    MemberId
}
