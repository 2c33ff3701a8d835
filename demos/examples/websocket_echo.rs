//! Echoes WebSocket messages, by the code of `web_chat`, for the
//! [Autobahn test suite](https://github.com/crossbario/autobahn-testsuite):
//!
//! ```sh
//! cargo run --release -p socketserver-demos --example websocket_echo -- --mixin fibers
//! wstest -m fuzzingclient -s demos/examples/websocket_echo.json
//! ```

#[path = "../../examples/common/mod.rs"]
mod common;
#[path = "../src/bin/web_chat/request.rs"]
#[allow(dead_code, reason = "an echo is for pages of any origin")]
mod request;
#[path = "../src/bin/web_chat/websocket.rs"]
#[allow(dead_code, reason = "an echo has no broadcast")]
mod websocket;

use std::convert::Infallible;
use std::process::ExitCode;

use common::Example;
use request::Failure;
use socketserver::{Connection, HandlerResult, StreamRequestHandler};
use websocket::{End, WebSocket};

/// The suite's longest message has 16 MiB.
const MAX_MESSAGE: usize = 16 << 20;

struct Echo;

impl StreamRequestHandler for Echo {
    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let request = match request::read(connection, b"") {
            Ok(request) => request,
            Err(Failure::Refused(status)) => return Err(status.to_string().into()),
            Err(Failure::Broken(error)) => return Err(error.into()),
        };
        let mut socket = WebSocket::accept(connection, &request, MAX_MESSAGE)
            .map_err(|status| status.to_string())?;
        let Err(end) = echo(connection, &mut socket);
        Ok(socket.close(connection, end)?)
    }
}

fn echo(connection: &mut Connection, socket: &mut WebSocket) -> Result<Infallible, End> {
    loop {
        let message = socket.receive(connection)?;
        socket.send(connection, message)?;
    }
}

fn main() -> ExitCode {
    Example::new("127.0.0.1:9001", "Echoes WebSocket messages.")
        .try_it("wstest -m fuzzingclient -w ws://{address}/")
        .run(|options| options.serve(Echo))
}
