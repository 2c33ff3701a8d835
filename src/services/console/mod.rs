//! A server's state and limits, seen and changed by lines of text: [`Console`].

mod command;
mod reply;

use std::borrow::Cow;
use std::io::Write;

use crate::{Access, Connection, HandlerResult, ServerHandle, StreamRequestHandler};
use command::Command;

/// Shows what another server does, and changes its limits: for an administrator with `nc -U`, and for
/// programs.
///
/// It is the handler of a server of its own, on a Unix socket mostly:
///
/// ```
/// use socketserver::services::{Console, Echo};
/// use socketserver::{ThreadingTcpServer, ThreadingUnixStreamServer};
///
/// let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo)?.spawn()?;
/// # let path = std::env::temp_dir().join(format!("socketserver-doc-console-{}", std::process::id()));
/// let console = ThreadingUnixStreamServer::builder()
///     .socket_mode(0o600)
///     .bind(&*path, Console::new(server.handle()))?
///     .spawn()?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// | command | reply |
/// | --- | --- |
/// | `status` | the listeners, counters and limits |
/// | `connections [TEXT]` | the requests being served, oldest first; those whose number, peer, activity or upstream contains the text |
/// | `stuck` | those whose handlers do anything but read, with what they wait for, the longest first |
/// | `disconnect NUMBER` | shuts a connection down |
/// | `suspend`, `resume` | new connections are left in the backlog; are accepted again |
/// | `limit connections N` | how many requests are served at a time |
/// | `limit peer N`, `limit peer none` | how many of one peer |
/// | `rate N SECONDS`, `rate none` | how often one peer may connect: N times in so many seconds |
/// | `metrics` | all counters and histograms, as [Prometheus](crate::Stats::write_prometheus) reads them |
/// | `stop [SECONDS]` | stops the server, within so many seconds, and says what became of its connections; without a number it only asks for it |
/// | `help` | these commands |
/// | `quit` | ends the connection, as its end of input does |
///
/// The replies are for people: lines, with columns. With `json` before a command the reply is one line
/// of JSON ([RFC 8259]): an object, an array of objects for `connections` and `stuck`, a string for
/// `metrics` and `help`, `true` for a command that shows nothing. What is refused is
/// `error: TEXT`, or `{"error":"TEXT"}`, and the console goes on.
///
/// # Who may use it
///
/// Processes of the same user and of root, on a Unix socket, and those that
/// [`access`](Console::access) allows; all others are denied, and so is every client over TCP. A client
/// that may use it can stop the server.
///
/// # What it sees
///
/// What the [`ServerHandle`] does. Under [`Forking`](crate::Forking) and [`Prefork`](crate::Prefork)
/// a console would need a thread, which the parent must not have; in a child of `Prefork` it sees the
/// connections of that child alone.
///
/// [RFC 8259]: https://www.rfc-editor.org/rfc/rfc8259
#[derive(Debug)]
pub struct Console {
    server: ServerHandle,
    access: Access,
}

impl Console {
    /// A console of this server, which is another one than the console's own: a stop would wait for
    /// the console.
    pub fn new(server: ServerHandle) -> Console {
        Console { server, access: Access::closed() }
    }

    /// Who may use it besides the same user and root, such as the users of a group by their numbers,
    /// or the clients of a network; none by default ([`Access::closed`]).
    pub fn access(mut self, access: Access) -> Console {
        self.access = access;
        self
    }
}

impl StreamRequestHandler for Console {
    fn verify_request(&self, connection: &Connection) -> bool {
        let uid = connection.peer_credentials().ok().flatten().map(|peer| peer.uid);
        let own = rustix::process::geteuid().as_raw();
        uid.is_some_and(|uid| uid == 0 || uid == own)
            || self.access.permits(connection.peer_addr().ip(), uid)
    }

    fn handle(&self, connection: &mut Connection) -> HandlerResult {
        let mut line = Vec::new();
        while connection.read_line(&mut line)? > 0 {
            let text = String::from_utf8_lossy(&line);
            let (is_json, words) = match text.trim().strip_prefix("json") {
                Some(rest) if rest.is_empty() || rest.starts_with(' ') => (true, rest.trim()),
                _ => (false, text.trim()),
            };
            match Command::parse(words) {
                Ok(None) => {}
                Ok(Some(Command::Quit)) => break,
                Ok(Some(command)) => command.run(&self.server).write(is_json, connection)?,
                Err(reason) => {
                    reply::Reply::Error(Cow::Owned(reason)).write(is_json, connection)?
                }
            }
            connection.flush()?;
            line.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ThreadingTcpServer;
    use crate::services::Echo;

    fn answers(lines: &str) -> String {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap();
        let mut connection = Connection::in_memory(lines);
        Console::new(server.handle()).handle(connection.as_mut()).unwrap();
        String::from_utf8(connection.output().to_vec()).unwrap()
    }

    #[test]
    fn what_is_no_command_is_refused_in_one_line() {
        for line in [
            "what",
            "disconnect",
            "disconnect x",
            "disconnect 18446744073709551616",
            "limit",
            "limit connections",
            "limit connections 0",
            "limit connections many",
            "limit peer -1",
            "limit users 3",
            "rate 1",
            "rate 1 0",
            "rate x 1",
            "rate 1 nan",
            "rate 1 1e300",
            "stop now",
            "stop -1",
            "stop inf",
            "status of it",
            "resume\u{7f}",
            "disconnect 77",
            "disconnect 0",
        ] {
            let answer = answers(&format!("{line}\n"));
            assert!(
                answer.starts_with("error: ") && answer.lines().count() == 1,
                "{line}: {answer}"
            );
            let answer = answers(&format!("json {line}\n"));
            assert!(answer.starts_with(r#"{"error":""#) && answer.ends_with("\"}\n"), "{answer}");
            assert_eq!(answer.lines().count(), 1);
        }
        assert_eq!(answers("\n  \njson\nquit\nstatus\n"), "");
    }

    #[test]
    fn limits_are_set() {
        let server = ThreadingTcpServer::bind("127.0.0.1:0", Echo).unwrap();
        let handle = server.handle();
        let mut connection = Connection::in_memory(
            "limit connections 7\nlimit peer 2\nlimit peer none\nrate 5 0.5\nrate none\nsuspend\n",
        );
        Console::new(handle.clone()).handle(connection.as_mut()).unwrap();
        assert_eq!(connection.output(), b"done\n".repeat(6));
        assert_eq!(handle.max_connections(), 7);
        assert_eq!((handle.max_connections_per_peer(), handle.connection_rate()), (None, None));
        assert!(handle.is_suspended());
        let mut connection = Connection::in_memory(
            "limit peer 2\nrate 5 0.5\nstatus\njson status\nlimit peer none\njson status\n",
        );
        Console::new(handle.clone()).handle(connection.as_mut()).unwrap();
        let output = String::from_utf8(connection.output().to_vec()).unwrap();
        assert!(output.contains("\nmax_per_peer    2\nrate_per_peer   5 0.5\n"), "{output}");
        let of_programs = [
            r#""max_connections":7,"max_per_peer":2,"rate_per_peer":"5 0.5","#,
            r#""max_connections":7,"max_per_peer":null,"rate_per_peer":"5 0.5","#,
        ];
        assert!(of_programs.into_iter().all(|status| output.contains(status)), "{output}");
        let mut connection = Connection::in_memory("json resume\njson stop\n");
        Console::new(handle.clone()).handle(connection.as_mut()).unwrap();
        assert_eq!(connection.output(), b"true\n".repeat(2));
        assert!(!handle.is_suspended() && handle.is_stopping());
        assert!(handle.stop(Duration::ZERO).is_clean());
    }
}
