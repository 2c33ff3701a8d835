//! Ready-made handlers, to run as they are or to read as examples. They use the public API only.

pub(crate) mod chat;
mod console;
mod echo;
mod hello;
mod telnet;

pub use chat::{Chat, Local, chat_line, printable};
pub use console::Console;
pub use echo::Echo;
pub use hello::Hello;
pub use telnet::Telnet;
