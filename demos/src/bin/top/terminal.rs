//! The terminal, which is as it was before when this has ended.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

pub(crate) struct Terminal {
    before: Termios,
    /// Readable after a signal that ends it.
    signals: PipeReader,
}

impl Terminal {
    pub(crate) fn open() -> io::Result<Terminal> {
        let (signals, writer) = io::pipe()?;
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            pipe::register(signal, writer.try_clone()?)?;
        }
        let before = tcgetattr(io::stdin())?;
        let mut keys = before.clone();
        // Each key at once, and not shown.
        keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        keys.special_codes[SpecialCodeIndex::VMIN] = 1;
        keys.special_codes[SpecialCodeIndex::VTIME] = 0;
        let terminal = Terminal { before, signals };
        tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        // Another screen than the shell's, without a cursor.
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (usize, usize) {
        let size =
            tcgetwinsize(io::stdout()).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
        size.map_or((80, 24), |size| (size.ws_col.into(), size.ws_row.into()))
    }

    pub(crate) fn draw(&mut self, lines: impl Iterator<Item = String>) -> io::Result<()> {
        let lines: Vec<_> = lines.map(|line| format!("{line}\x1b[K")).collect();
        let mut out = io::stdout().lock();
        write!(out, "\x1b[H{}\x1b[J", lines.join("\r\n"))?;
        out.flush()
    }

    /// Waits until then, and for the end: the key `q`, Ctrl-C, another signal, or the terminal's own.
    pub(crate) fn is_over_before(&mut self, then: Instant) -> io::Result<bool> {
        loop {
            let left = then.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            let stdin = io::stdin();
            let wanted = [stdin.as_fd(), self.signals.as_fd()];
            let mut fds = wanted.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
            match poll(&mut fds, Some(&left)) {
                Ok(0) => return Ok(false),
                Ok(_) if !fds[1].revents().is_empty() => return Ok(true),
                Ok(_) => {
                    let mut keys = [0; 64];
                    let length = stdin.lock().read(&mut keys)?;
                    if length == 0 || keys[..length].contains(&b'q') {
                        return Ok(true);
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // What fails here, fails for a terminal that is gone.
        let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
