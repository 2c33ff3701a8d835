//! What the chat servers have in common: a room of this server alone, and one on several servers.

mod transcript;

use socketserver::services::Chat;

use crate::common::{Example, Options, Outcome};

/// A chat server, without the flags of a backplane.
pub(crate) fn example(about: &'static str) -> Example {
    Example::new("127.0.0.1:2626", about)
        .try_it("nc {nc}, or cargo run --example chat_client -- {address}")
        .without_forking("processes share no memory, so no client would read another's lines")
        .flag("greeting", "TEXT", "what a client is told first")
}

/// Serves a room, with a transcript on standard output.
pub(crate) fn serve(chat: Chat, options: Options) -> Outcome {
    let mut chat = chat.on_message(transcript::transcript());
    if let Some(greeting) = options.value("greeting") {
        chat = chat.greeting([greeting, "\r\n"].concat());
    }
    options.serve(chat)
}
