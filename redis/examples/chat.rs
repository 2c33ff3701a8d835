//! The library's example `chat` as one room on several servers, by way of Redis.
//!
//! ```sh
//! redis-server --appendonly yes
//! cargo run --release -p socketserver-redis --example redis_chat
//! cargo run --release -p socketserver-redis --example redis_chat -- --listen 127.0.0.1:2627
//! ```

#[path = "../../examples/common/chat.rs"]
mod chat;
#[path = "../../examples/common/mod.rs"]
mod common;

use std::process::ExitCode;

use socketserver::services::Chat;
use socketserver_redis::Redis;

fn main() -> ExitCode {
    chat::example("A chat room on several servers, by way of Redis.")
        .flag("backplane", "URL", "where Redis is; redis://127.0.0.1:6379/0 by default")
        .flag("room", "NAME", "the name of the room; lobby by default")
        .flag("expiry", "SECONDS", "how long a server may be silent; 10 by default")
        .run(|options| {
            let url = options.value("backplane").unwrap_or("redis://127.0.0.1:6379/0");
            let room = options.value("room").unwrap_or("lobby");
            let mut redis = Redis::new(url, room)?;
            if let Some(expiry) = options.seconds("expiry")? {
                redis = redis.expiry(expiry);
            }
            chat::serve(Chat::with_backplane(redis)?, options)
        })
}
