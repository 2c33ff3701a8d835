//! What the console says.

use std::error::Error;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use socketserver::{Endpoint, Scheme};

/// How long the console may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Source(BufReader<UnixStream>);

/// The server at one moment.
pub(crate) struct Look {
    pub(crate) at: Instant,
    pub(crate) status: Value,
    pub(crate) connections: Vec<Value>,
}

impl Source {
    pub(crate) fn connect(address: &Endpoint) -> Result<Source, Box<dyn Error>> {
        let name = address.unix_name(Scheme::Unix)?;
        let stream = UnixStream::connect_addr(&name.socket_addr()?)
            .map_err(|error| format!("{address}: {error}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Source(BufReader::new(stream)))
    }

    pub(crate) fn look(&mut self) -> Result<Look, Box<dyn Error>> {
        let status = self.ask("status")?;
        match self.ask("connections")? {
            Value::Array(connections) => Ok(Look { at: Instant::now(), status, connections }),
            other => Err(format!("the console says {other}").into()),
        }
    }

    fn ask(&mut self, command: &str) -> Result<Value, Box<dyn Error>> {
        let gone = |error: std::io::Error| match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => "the server has ended".to_owned(),
            ErrorKind::WouldBlock => "the console does not answer".to_owned(),
            _ => error.to_string(),
        };
        self.0.get_mut().write_all(format!("json {command}\n").as_bytes()).map_err(gone)?;
        let mut line = String::new();
        if self.0.read_line(&mut line).map_err(gone)? == 0 {
            return Err("the server has ended, or does not let this user look".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
