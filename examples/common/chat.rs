//! What the chat servers share: `chat`, and `redis_chat` of the crate `socketserver-redis`.

mod transcript;

use socketserver::services::Chat;

use crate::common::{Example, Options, Outcome};

/// A chat server, to which a backplane's flags may be added.
pub(crate) fn example(about: &'static str) -> Example {
    Example::new("127.0.0.1:2626", about)
        .try_it("nc {nc}, or cargo run --example chat_client -- {address}")
        .without_forking("processes share no memory, so no client would read another's lines")
        .flag("greeting", "TEXT", "the first line that a client gets")
}

/// Serves a room, with a transcript on standard output.
pub(crate) fn serve(chat: Chat, options: Options) -> Outcome {
    let mut chat = chat.on_message(transcript::transcript());
    if let Some(greeting) = options.value("greeting") {
        chat = chat.greeting([greeting, "\r\n"].concat());
    }
    options.serve(chat)
}
