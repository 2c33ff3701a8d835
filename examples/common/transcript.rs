//! Prints lines on standard output without blocking the caller.

use std::io::Write;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

/// How many lines may be queued.
const QUEUE_LENGTH: usize = 10_000;

/// How many lines are written at a time.
const BATCH: usize = 256;

/// How long the thread gathers lines before it writes them.
const BATCH_WINDOW: Duration = Duration::from_millis(10);

/// Returns a function that prints lines on a thread of its own. If standard output blocks, lines
/// are dropped, and their number is printed later.
pub(crate) fn transcript() -> impl FnMut(&str) + Send {
    let (sender, lines) = mpsc::sync_channel::<String>(QUEUE_LENGTH);
    let (finished, has_finished) = mpsc::channel();
    thread::spawn(move || {
        for line in &lines {
            // In a busy room, a wake-up and a write for each line would cost too much.
            thread::sleep(BATCH_WINDOW);
            let mut text = line + "\n";
            while !text.is_empty() {
                // Standard output may be closed.
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

/// Waits until the last lines are printed, at most a second.
impl Drop for Transcript {
    fn drop(&mut self) {
        self.sender = None;
        let _ = self.has_finished.recv_timeout(Duration::from_secs(1));
    }
}
