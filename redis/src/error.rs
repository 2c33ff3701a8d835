//! [`Error`]: why a room cannot be opened.

use std::error::Error as StdError;
use std::{fmt, io};

/// Why a room over Redis cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The name of a room is empty, longer than 64 bytes, or has a brace in it.
    #[non_exhaustive]
    RoomName {
        /// The name as it was given.
        room: String,
    },
    /// A text is not the URL of a Redis.
    #[non_exhaustive]
    Url {
        /// The text as it was given, without user and password.
        url: String,
        /// What is wrong with it.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Redis cannot be reached, or refuses to serve the room.
    #[non_exhaustive]
    Redis {
        /// The URL, without user and password.
        url: String,
        /// The name of the room.
        room: String,
        /// The error of Redis, or of the system.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The system refused something else.
    #[non_exhaustive]
    System {
        /// What failed.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn system(doing: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { doing, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::RoomName { room } => {
                write!(f, "bad room {room:?}: a room's name has 1 to 64 bytes, and no braces")
            }
            Error::Url { url, source } => write!(f, "bad URL {url}: {source}"),
            Error::Redis { url, room, source } => {
                write!(f, "cannot open the room {room:?} at {url}: {source}")
            }
            Error::System { doing, source } => write!(f, "cannot {doing}: {source}"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::RoomName { .. } => None,
            Error::Url { source, .. } | Error::Redis { source, .. } => Some(&**source),
            Error::System { source, .. } => Some(source),
        }
    }
}
