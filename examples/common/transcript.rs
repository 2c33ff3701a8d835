//! Lines on standard output that hold nobody up.

use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

/// How many lines may wait to be printed.
const WAITING: usize = 10_000;

/// How many are written at a time.
const BATCH: usize = 256;

/// How far it may be behind what people see.
const PAUSE: Duration = Duration::from_millis(10);

/// Prints what it is called with, on a thread of its own. When standard output is a pipe that
/// nobody reads, lines are lost, and their number printed later: the program goes on.
pub(crate) fn transcript() -> impl FnMut(&str) + Send {
    let (sender, lines) = mpsc::sync_channel::<String>(WAITING);
    let (finished, has_finished) = mpsc::channel();
    thread::spawn(move || {
        for line in &lines {
            // A busy room would otherwise wake this thread, and write, for each line.
            thread::sleep(PAUSE);
            let mut text = line + "\n";
            while !text.is_empty() {
                // Where standard output is closed, there is nobody to tell.
                let _ = std::io::stdout().write_all(text.as_bytes());
                text = lines.try_iter().take(BATCH).map(|line| line + "\n").collect();
            }
        }
        let _ = finished.send(());
    });
    let mut transcript = Transcript { sender: Some(sender), has_finished, lost: 0 };
    move |line| transcript.print(line)
}

struct Transcript {
    sender: Option<SyncSender<String>>,
    has_finished: Receiver<()>,
    lost: u64,
}

impl Transcript {
    fn print(&mut self, line: &str) {
        let Some(sender) = &self.sender else { return };
        if self.lost > 0 && sender.try_send(format!("({} lines lost)", self.lost)).is_ok() {
            self.lost = 0;
        }
        if sender.try_send(line.to_owned()).is_err() {
            self.lost += 1;
        }
    }
}

/// The last lines are printed before the program ends, if anybody reads them.
impl Drop for Transcript {
    fn drop(&mut self) {
        self.sender = None;
        let _ = self.has_finished.recv_timeout(Duration::from_secs(1));
    }
}
