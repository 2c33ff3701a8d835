//! A chat room for browsers and for plain lines, on one port.
//!
//! ```sh
//! cargo run --release -p socketserver-demos --bin web_chat
//! chromium http://127.0.0.1:8080/    # and in another terminal
//! nc 127.0.0.1 8080
//! ```
//!
//! The first bytes of a connection tell who it is. `GET ` is a browser: it is sent the page at `/`,
//! and the page speaks WebSocket ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)) at `/room`.
//! Anything else is a line client, as of [`services::Chat`](socketserver::services::Chat).
//!
//! So is a client that is silent for `--silence` seconds, as a telnet user who waits to be greeted.
//! But browsers open connections in advance and are silent on them, and would take the greeting for
//! a response. So a silent client is not greeted if a browser of the same address has asked for
//! something at about the same time: it has to say something first.
//!
//! All members read the same lines in the same order. A line takes one way, from a browser as from a line client:
//!
//! ```text
//!  LineClients --.                                .--> Chat's broadcast of lines ------> line clients
//!                +--> Publisher --> Backplane ----+
//!  Browsers -----'   (on this server, or Redis)   '--> Room --> broadcast of frames ---> browsers
//! ```
//!
//! The room makes an event of each line, and of the event one WebSocket frame for all browsers. It
//! also keeps the last fifty lines, and who is here.
//!
//! Over Redis, the names of browsers are unique on each server only, and a server learns who is on
//! the others when they join or speak.

mod arrivals;
mod backplane;
mod browser;
mod event;
mod guest;
mod lines;
mod names;
mod page;
mod request;
mod room;
mod websocket;

#[path = "../../../../examples/common/mod.rs"]
mod common;

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arrivals::{Arrivals, Client};
use backplane::{Local, Shared};
use browser::Browsers;
use common::{Example, Options, Outcome};
use http::StatusCode;
use lines::LineClients;
use names::Names;
use page::Page;
use request::Failure;
use room::Room;
use socketserver::extend::{Backplane, Transport};
use socketserver::services::Chat;
use socketserver::transport::{InheritedSocket, Tcp, UnixStream};
use socketserver::{Connection, HandlerResult, StreamRequestHandler};
use socketserver_redis::Redis;

/// In bytes, of a line client as of a browser.
const MAX_LINE: usize = 4096;

struct WebChat {
    arrivals: Arrivals,
    page: Page,
    browsers: Browsers,
    line_clients: LineClients,
}

impl StreamRequestHandler for WebChat {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        match self.arrivals.identify(connection)? {
            Client::Browser(begin) => self.answer(connection, begin),
            Client::Lines(begin) => self.line_clients.serve(connection, begin),
            Client::Gone => Ok(()),
        }
    }
}

impl WebChat {
    /// Answers the one HTTP request of a connection.
    fn answer(&self, connection: &mut Connection, begin: &[u8]) -> HandlerResult {
        let request = match request::read(connection, begin) {
            Ok(request) => request,
            Err(Failure::Refused(status)) => return Ok(page::refuse(connection, status)?),
            Err(Failure::Broken(error)) => return Err(error.into()),
        };
        match request.uri().path() {
            "/" => Ok(self.page.send(connection)?),
            "/room" => self.browsers.serve(connection, &request),
            _ => Ok(page::refuse(connection, StatusCode::NOT_FOUND)?),
        }
    }
}

fn serve(options: Options) -> Outcome {
    match options.value("backplane") {
        None => serve_room(Local::default(), options),
        Some(url) => {
            serve_room(Redis::new(url, options.value("room").unwrap_or("lobby"))?, options)
        }
    }
}

fn serve_room<B: Backplane<Error: Error>>(backplane: B, options: Options) -> Outcome {
    let (backplane, publisher) = Shared::new(backplane);
    let room = Arc::new(Room::new());
    let chat = Chat::with_backplane(backplane)?.on_message({
        let room = room.clone();
        move |line| room.record(line)
    });
    let ping = options.seconds("ping")?.unwrap_or(Duration::from_secs(25));
    let browsers = Browsers {
        room: room.clone(),
        names: Names::default(),
        publisher: publisher.clone(),
        // Two pings may be lost.
        idle_timeout: 3 * ping,
    };
    let silence = options.seconds("silence")?.unwrap_or(Duration::from_secs(2));
    let handler = WebChat {
        arrivals: Arrivals::new(silence),
        page: Page::new(),
        browsers,
        line_clients: LineClients { chat, publisher },
    };
    match options.is_unix() {
        true => run::<UnixStream>(handler, room, ping, &options),
        false => run::<Tcp>(handler, room, ping, &options),
    }
}

/// Serves over a transport. All settings of the server are here.
fn run<T>(handler: WebChat, room: Arc<Room>, ping: Duration, options: &Options) -> Outcome
where
    T: Transport<Handler = dyn StreamRequestHandler>
        + TryFrom<InheritedSocket, Error = socketserver::Error>,
{
    let builder = options.builder::<T>().max_line_length(MAX_LINE);
    ping_each(ping, &room);
    options.run(options.streams(builder, handler)?)
}

/// Pings all browsers of the room at this interval, as long as there is a room.
fn ping_each(interval: Duration, room: &Arc<Room>) {
    let room = Arc::downgrade(room);
    thread::spawn(move || {
        while let Some(room) = room.upgrade() {
            room.ping();
            drop(room);
            thread::sleep(interval);
        }
    });
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:8080", "A chat room for browsers and for plain lines, on one port.")
        .try_it("nc {nc}, or a browser at http://{address}/")
        .without_forking("processes share no memory, so no client would read another's lines")
        .flag("silence", "SECONDS", "after which a client is greeted; 2 by default")
        .flag("ping", "SECONDS", "between pings to browsers; 25 by default")
        .flag("backplane", "URL", "the Redis of a room on several servers, redis://HOST/0")
        .flag("room", "NAME", "the name of the room in Redis; lobby by default")
        .run(serve)
}
