//! The server that hands its listeners over: [`ServerHandle::hand_over`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::manifest::{Entry, MAX_LISTENERS, count_line};
use super::{
    Channel, FAILED, GREETING, KEPT, READY, YOURS, deadline_after, failed, is_trusted, one_line,
};
use crate::address::Endpoint;
use crate::config::TransportOptions;
use crate::error::{Error, Result};
use crate::state::{ListenerInfo, ServerHandle, ServerState};
use crate::sys::exec::start_program;
use crate::sys::poll::{Interest, poll};
use crate::transport::{self, InheritedSocket, Transport};

/// How long a client of the socket may take to say that it is a successor.
const GREETING_TIMEOUT: Duration = Duration::from_secs(1);

/// How often it is looked whether a successor that was started has ended, and the pause after a client
/// that is none.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

impl ServerHandle {
    /// Hands all listeners over to a server in another process, which
    /// [takes them over](crate::Builder::take_over) at this path, and stops: a restart, with another
    /// version of the program for instance, that loses no client.
    ///
    /// It waits until the successor serves, for the
    /// [`hand_over_timeout`](crate::Builder::hand_over_timeout) at most, while this server goes on. Then
    /// the stop begins, as by [`shutdown`](ServerHandle::shutdown), and this returns: what was received
    /// is answered within the [`stop_timeout`](crate::Builder::stop_timeout). A client that has had no
    /// answer yet has another second to send its first request. What waits in the backlog is left to
    /// the successor. The file of a Unix socket stays, and is the successor's.
    ///
    /// The path is that of a Unix socket, which only processes of the same user may connect to
    /// (mode 0600, and their user is checked), and which is removed at the end.
    ///
    /// It blocks the calling thread, as well when that is a fiber's. A child of a
    /// [`Forking`](crate::Forking) server has no listeners; one of [`Prefork`](crate::Prefork) hands
    /// over for all. Under these two, which must have no thread for it, it is called in
    /// [`service_actions`](crate::Builder::service_actions).
    ///
    /// ```no_run
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// // The old program, on command:
    /// let server = ThreadingTcpServer::bind("0.0.0.0:7", Echo)?.spawn()?;
    /// if let Err(error) = server.handle().hand_over("/run/echo/hand-over") {
    ///     eprintln!("{error}; serving on");
    /// }
    ///
    /// // The new program, then or a little later, or as the first one:
    /// let builder = ThreadingTcpServer::builder().take_over("/run/echo/hand-over");
    /// builder.bind("0.0.0.0:7", Echo)?.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::HandOver`], which says why; the server then goes on as if nothing had happened.
    /// [`Error::Bind`] if the path is in use. [`Error::ShutDown`] if the server is being stopped.
    pub fn hand_over(&self, path: impl AsRef<Path>) -> Result<()> {
        Predecessor::new(self, path.as_ref())?.hand_over()
    }

    /// Starts the program of the successor, and hands over to it as
    /// [`hand_over`](ServerHandle::hand_over) does: the path is listened at before the program starts.
    /// Returns its process, once it serves.
    ///
    /// ```no_run
    /// use std::process::Command;
    /// use socketserver::{ThreadingTcpServer, services::Echo};
    ///
    /// let path = "/run/echo/hand-over";
    /// let builder = ThreadingTcpServer::builder().take_over(path);
    /// let server = builder.bind("0.0.0.0:7", Echo)?.spawn()?;
    /// // The program of this name, which may be another version, with the same arguments.
    /// let mut arguments = std::env::args_os();
    /// let mut program = Command::new(arguments.next().ok_or("no name")?);
    /// program.args(arguments);
    /// let successor = server.handle().hand_over_to(path, &mut program)?;
    /// println!("process {} serves", successor.id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`hand_over`](ServerHandle::hand_over), also as soon as the process has ended.
    /// It is killed if it does not serve in time.
    pub fn hand_over_to(&self, path: impl AsRef<Path>, successor: &mut Command) -> Result<Child> {
        let predecessor = Predecessor::new(self, path.as_ref())?;
        let child = start_program(|| successor.spawn());
        let mut child =
            child.map_err(|error| failed(format!("cannot start the successor: {error}")))?;
        let handed_over = Predecessor { child: Some(&mut child), ..predecessor }.hand_over();
        if let Err(error) = handed_over {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(child)
    }
}

struct Predecessor<'a> {
    state: &'a ServerState,
    socket: transport::UnixStream,
    deadline: Instant,
    /// The process of the successor, if this one has started it.
    child: Option<&'a mut Child>,
}

impl Predecessor<'_> {
    fn new<'a>(server: &'a ServerHandle, path: &Path) -> Result<Predecessor<'a>> {
        let state = &**server.state();
        if state.is_stopping() {
            return Err(Error::ShutDown);
        }
        let deadline = deadline_after(state.settings.hand_over_timeout);
        let options = TransportOptions { socket_mode: Some(0o600), ..TransportOptions::default() };
        let socket = transport::UnixStream::bind(&Endpoint::try_from(path)?, &options)?;
        Ok(Predecessor { state, socket, deadline, child: None })
    }

    fn hand_over(&mut self) -> Result<()> {
        let mut channel = self.accept()?;
        let done = self.offer(&mut channel);
        if let Err(error) = &done {
            let _ = channel.send(&format!("{KEPT}{}", one_line(&error.to_string())));
        }
        done
    }

    /// Waits for a successor. Others at the socket are sent away.
    fn accept(&mut self) -> Result<Channel> {
        loop {
            self.wait(None)?;
            match self.accept_one() {
                Ok(channel) => return Ok(channel),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    log::warn!("not the successor: {error}");
                    // Without a descriptor for it, the client is still there.
                    thread::sleep(CHECK_INTERVAL);
                }
            }
        }
    }

    fn accept_one(&self) -> io::Result<Channel> {
        let (stream, _) = SockRef::from(&self.socket).accept()?;
        let greeted_by = self.deadline.min(Instant::now() + GREETING_TIMEOUT);
        let mut channel = Channel::new(stream.into(), greeted_by);
        let peer = channel.peer()?;
        if !is_trusted(peer) {
            return Err(io::Error::other(format!("it is a process of the user {}", peer.uid)));
        }
        let greeting = channel.line(Some(self.state.shutdown_signal()))?;
        if greeting != GREETING {
            let _ = channel.send(&format!("{KEPT}this is \"{GREETING}\""));
            return Err(io::Error::other(format!("it has said {:?}", one_line(&greeting))));
        }
        Ok(channel.until(self.deadline))
    }

    /// Sends the listeners, and waits until the successor serves.
    fn offer(&mut self, channel: &mut Channel) -> Result<()> {
        let lost = |error: io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset => {
                failed("the successor has ended before it was ready".to_owned())
            }
            io::ErrorKind::Interrupted => Error::ShutDown,
            _ => failed(format!("the successor is not ready: {error}")),
        };
        let listeners = self.listeners()?;
        let entries = listeners.iter().map(|listener| listener.entry.line());
        let mut text = count_line(listeners.len());
        entries.for_each(|line| text.extend(["\n", &line]));
        text.push('\n');
        let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(|l| l.socket.as_fd()).collect();
        channel.send_with(&text, &descriptors).map_err(lost)?;
        drop(listeners);
        if !channel.has_line() {
            self.wait(Some(channel))?;
        }
        match channel.line(Some(self.state.shutdown_signal())).map_err(lost)?.as_str() {
            READY => {}
            line => {
                return Err(failed(match line.strip_prefix(FAILED) {
                    Some(reason) => format!("the successor has failed: {reason}"),
                    None => format!("the successor has said {:?}", one_line(line)),
                }));
            }
        }
        // From here on the files of the sockets are the successor's, and a stop leaves them alone.
        if !self.state.processes.hand_over() {
            return Err(failed("another process has the listeners".to_owned()));
        }
        if let Err(error) = channel.send(YOURS) {
            self.state.processes.take_back();
            return Err(lost(error));
        }
        let successor = channel.peer().ok().and_then(|peer| peer.pid);
        log::info!("{}: handed over", self.state.local_addr());
        self.state.tell(|observer| observer.handed_over(successor));
        self.state.shutdown();
        Ok(())
    }

    fn listeners(&self) -> Result<Vec<Offered>> {
        let listening = self.state.listening();
        let copies =
            listening.map(|listening| listening.copies()).unwrap_or_else(|| Ok(Vec::new()));
        let copies = copies.map_err(Error::system("duplicate a listener"))?;
        if copies.is_empty() {
            return Err(failed("this process has no listeners".to_owned()));
        }
        if copies.len() > MAX_LISTENERS {
            return Err(failed(format!("more than {MAX_LISTENERS} listeners")));
        }
        copies.into_iter().map(|(socket, info)| Offered::new(socket, &info, self.state)).collect()
    }

    /// Waits for input of the channel, or for a client of the socket.
    fn wait(&mut self, channel: Option<&Channel>) -> Result<()> {
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                return Err(failed("no successor has become ready in time".to_owned()));
            }
            let mut until = self.deadline;
            if let Some(child) = &mut self.child {
                if let Ok(Some(status)) = child.try_wait() {
                    return Err(failed(format!("the successor has ended: {status}")));
                }
                until = until.min(now + CHECK_INTERVAL);
            }
            let fd = channel.map_or(self.socket.as_fd(), |channel| channel.as_fd());
            let wanted = [fd, self.state.shutdown_signal()].map(|fd| Some((fd, Interest::Read)));
            let ready = poll(wanted, [], Some(until));
            match ready.map_err(Error::system("wait for a successor"))? {
                [_, true] => return Err(Error::ShutDown),
                [true, _] => return Ok(()),
                _ => {}
            }
        }
    }
}

/// A listener that is handed over.
struct Offered {
    entry: Entry,
    socket: InheritedSocket,
}

impl Offered {
    fn new(socket: OwnedFd, info: &ListenerInfo, state: &ServerState) -> Result<Offered> {
        let socket = InheritedSocket::new(info.local_addr.to_string(), socket)?;
        Ok(Offered { entry: Entry::new(socket.scheme(), info, state.has_tls()), socket })
    }
}
