//! A chat room: what one client types, all others see. The room is a service of the library; the
//! transcript on standard output is this program's.
//!
//! ```sh
//! cargo run --release --example chat
//! cargo run --release --example chat_client    # in two other terminals, or
//! telnet 127.0.0.1 2626
//! ```

mod common;
#[path = "common/transcript.rs"]
mod transcript;

use std::process::ExitCode;

use common::Example;
use socketserver::services::Chat;

fn main() -> ExitCode {
    Example::new("127.0.0.1:2626", "A chat room, line by line.")
        .try_it("nc {nc}, or cargo run --example chat_client -- {address}")
        .without_forking("processes share no memory, so nobody would hear anybody else")
        .flag("greeting", "TEXT", "what newcomers are told")
        .run(|options| {
            let mut chat = Chat::new().on_message(transcript::transcript());
            if let Some(greeting) = options.value("greeting") {
                chat = chat.greeting([greeting, "\r\n"].concat());
            }
            options.serve(chat)
        })
}
