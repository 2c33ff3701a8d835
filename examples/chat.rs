//! A chat room: what one client types, all others see. The room is a service of the library; the
//! transcript on standard output is this program's.
//!
//! ```sh
//! cargo run --release --example chat
//! cargo run --release --example chat_client    # in two other terminals, or
//! telnet 127.0.0.1 2626
//! ```
//!
//! One room on several servers, by way of Redis:
//!
//! ```sh
//! cargo run --release --features redis --example chat -- --backplane redis://127.0.0.1:6379/0
//! ```

mod common;
#[path = "common/transcript.rs"]
mod transcript;

use std::error::Error;
use std::process::ExitCode;

use common::{Example, Options, usage_error};
use socketserver::services::Chat;

fn main() -> ExitCode {
    Example::new("127.0.0.1:2626", "A chat room, line by line.")
        .try_it("nc {nc}, or cargo run --example chat_client -- {address}")
        .without_forking("processes share no memory, so nobody would hear anybody else")
        .flag("greeting", "TEXT", "what newcomers are told")
        .flag("backplane", "URL", "redis://HOST:PORT/DATABASE, for one room on several servers")
        .flag("room", "NAME", "which room it is there; lobby by default")
        .flag("expiry", "SECONDS", "how long a server there may be silent; 10 by default")
        .run(|options| {
            let mut chat = room(&options)?.on_message(transcript::transcript());
            if let Some(greeting) = options.value("greeting") {
                chat = chat.greeting([greeting, "\r\n"].concat());
            }
            options.serve(chat)
        })
}

fn room(options: &Options) -> Result<Chat, Box<dyn Error>> {
    if let Some(url) = options.value("backplane") {
        return shared_room(url, options);
    }
    match ["room", "expiry"].into_iter().find(|flag| options.value(flag).is_some()) {
        Some(flag) => Err(usage_error(format!("--{flag} needs --backplane"))),
        None => Ok(Chat::new()),
    }
}

#[cfg(feature = "redis")]
fn shared_room(url: &str, options: &Options) -> Result<Chat, Box<dyn Error>> {
    use socketserver::services::Redis;

    let mut redis = Redis::new(url, options.value("room").unwrap_or("lobby"))?;
    if let Some(expiry) = options.seconds("expiry")? {
        redis = redis.expiry(expiry);
    }
    Ok(Chat::with_backplane(redis)?)
}

#[cfg(not(feature = "redis"))]
fn shared_room(_url: &str, _options: &Options) -> Result<Chat, Box<dyn Error>> {
    Err(usage_error("--backplane needs --features redis".to_owned()))
}
