//! A restart on `SIGUSR2`: the same program, with the same command line, takes the listeners over, and no
//! client is lost.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use signal_hook::consts::SIGUSR2;
use socketserver::extend::{Mixin, Transport};
use socketserver::transport::InheritedSocket;
use socketserver::{Address, Builder, Scheme, ServerHandle};

use super::mixin::Choice;
use super::polled::Polled;
use super::signals::Signals;
use super::{NAME, Outcome};

/// Tells a program that was started by its predecessor where to take over, and the scheme of the first
/// listener.
const VARIABLE: &str = "SOCKETSERVER_TAKE_OVER";

/// How long the successor may take to serve.
const TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMES: [(&str, Scheme); 4] = [
    ("tcp", Scheme::Tcp),
    ("udp", Scheme::Udp),
    ("unix", Scheme::Unix),
    ("unixgram", Scheme::UnixDatagram),
];

/// The scheme of the predecessor's first listener, and the path; `None` if there is no predecessor.
pub(super) fn predecessor() -> Option<(Scheme, PathBuf)> {
    let value = env::var(VARIABLE).ok()?;
    let (word, path) = value.split_once(' ')?;
    let (_, scheme) = SCHEMES.iter().find(|(known, _)| *known == word)?;
    Some((*scheme, path.into()))
}

pub(super) struct Restart {
    mixin: Choice,
    polled: Polled,
}

impl Restart {
    pub(super) fn of(mixin: Choice) -> Restart {
        Restart { mixin, polled: Polled::default() }
    }

    /// Takes over from a predecessor, if there is one.
    pub(super) fn taking_over<T, M>(builder: Builder<T, M>) -> Builder<T, M>
    where
        T: Transport + TryFrom<InheritedSocket, Error = socketserver::Error>,
        M: Mixin,
    {
        match predecessor() {
            Some((_, path)) => builder.take_over(path),
            None => builder,
        }
    }

    /// Has a server that forks look for the signal.
    pub(super) fn polled_by<T: Transport, M: Mixin>(
        &self,
        builder: Builder<T, M>,
    ) -> Builder<T, M> {
        let builder = builder.hand_over_timeout(TIMEOUT);
        if self.mixin.is_spawnable() { builder } else { self.polled.by(builder) }
    }

    /// From now on the signal restarts the server.
    pub(super) fn on_signal(&self, server: ServerHandle) -> Outcome {
        let signals = Signals::of(SIGUSR2)?;
        if !self.mixin.is_spawnable() {
            self.polled.set(move || {
                // Of several processes one has the signal.
                if signals.take() {
                    restart(&server);
                }
            });
            return Ok(());
        }
        thread::Builder::new().name("restart".to_owned()).spawn(move || {
            while signals.wait() && !server.is_stopping() {
                restart(&server);
            }
        })?;
        Ok(())
    }
}

fn restart(server: &ServerHandle) {
    let word = match server.local_addr() {
        Address::Udp(_) => "udp",
        Address::Unix(_) => "unix",
        Address::UnixDatagram(_) => "unixgram",
        _ => "tcp",
    };
    let path = directory().join(format!("{NAME}-{}.hand-over", std::process::id()));
    let mut arguments = env::args_os();
    let Some(program) = arguments.next() else { return };
    let mut successor = Command::new(program);
    successor.args(arguments).env(VARIABLE, format!("{word} {}", path.display()));
    // They name this process.
    for variable in ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        successor.env_remove(variable);
    }
    if let Err(error) = server.hand_over_to(&path, &mut successor) {
        log::error!("{error}; serving on");
    }
}

/// One that is the service's or the user's own, if there is one.
fn directory() -> PathBuf {
    let own = ["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"].into_iter().find_map(env::var_os);
    let own = own.map(PathBuf::from).filter(|path| Path::new(path).is_dir());
    own.unwrap_or_else(env::temp_dir)
}
