//! A room over Redis on servers of the test program itself, and its clients.

use std::io::Write;
use std::net::TcpStream;

use socketserver::services::Chat;
use socketserver::{RunningServer, ThreadingTcpServer};
use socketserver_redis::Redis;

use crate::redis_server::RedisServer;
use crate::support::clients::{line_of, tcp_from};
use crate::support::wait_until;

pub(crate) const ROOM: &str = "lobby";

pub(crate) fn server(backplane: Redis) -> RunningServer {
    serving(Chat::with_backplane(backplane).unwrap().greeting("hello\r\n"))
}

pub(crate) fn serving(chat: Chat) -> RunningServer {
    ThreadingTcpServer::bind("127.0.0.1:0", chat).unwrap().spawn().unwrap()
}

pub(crate) fn backplane(url: &str) -> Redis {
    Redis::new(url, ROOM).unwrap()
}

/// A client of the room.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) name: String,
}

impl Client {
    /// A client that was greeted. Its join may not be in Redis yet.
    #[track_caller]
    pub(crate) fn connect(server: &RunningServer) -> Client {
        let stream = tcp_from("127.0.0.1", server.local_addr());
        let name = stream.local_addr().unwrap().to_string();
        let client = Client { stream, name };
        assert_eq!(client.next_line(), "hello");
        client
    }

    /// A client whose join is in Redis.
    #[track_caller]
    pub(crate) fn join(server: &RunningServer, redis: &RedisServer) -> Client {
        let client = Client::connect(server);
        wait_until("it joins", || lines(redis).contains(&client.join_line()));
        client
    }

    pub(crate) fn send(&self, text: &str) {
        (&self.stream).write_all(format!("{text}\n").as_bytes()).unwrap();
    }

    #[track_caller]
    pub(crate) fn next_line(&self) -> String {
        line_of(&self.stream).trim_end().to_owned()
    }

    /// The next line that is neither a notice nor a join. A client may or may not receive the joins
    /// from just before its own.
    #[track_caller]
    pub(crate) fn next_message(&self) -> String {
        loop {
            let line = self.next_line();
            if !line.starts_with("* ") && !line.starts_with("Client joined ") {
                return line;
            }
        }
    }

    /// Skips to the next notice that contains `part`.
    #[track_caller]
    pub(crate) fn notice_with(&self, part: &str) -> String {
        loop {
            let line = self.next_line();
            if line.starts_with("* ") && line.contains(part) {
                return line;
            }
        }
    }

    pub(crate) fn join_line(&self) -> String {
        format!("Client joined {}", self.name)
    }

    pub(crate) fn message_line(&self, text: &str) -> String {
        format!("[{}] {text}", self.name)
    }
}

/// The first number in a text.
pub(crate) fn number_in(text: &str) -> Option<usize> {
    let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits.split(' ').next()?.parse().ok()
}

pub(crate) fn lines(redis: &RedisServer) -> Vec<String> {
    redis.entries(ROOM).into_iter().map(|(_, line)| line).collect()
}
