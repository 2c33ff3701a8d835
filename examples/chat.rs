//! A chat room: what one client types, all others see. The room is a service of the library; the
//! transcript on standard output is this program's. For one room on several servers see
//! `redis/examples/chat.rs`.
//!
//! ```sh
//! cargo run --release --example chat
//! cargo run --release --example chat_client    # in two other terminals, or
//! telnet 127.0.0.1 2626
//! ```

#[path = "common/chat.rs"]
mod chat;
mod common;

use std::process::ExitCode;

use socketserver::services::Chat;

fn main() -> ExitCode {
    chat::example("A chat room, line by line.").run(|options| chat::serve(Chat::new(), options))
}
