//! Services on top of the framework, using nothing that a user could not: to run as they are, or
//! to read as examples.

mod chat;
mod echo;
mod hello;

pub use chat::{Backplane, Chat, Kind, Local, LocalMembers, Message, printable};
pub use echo::Echo;
pub use hello::Hello;
