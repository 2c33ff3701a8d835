//! Mail on disk: a folder with a file for each message, which is complete or does not exist
//! ([Maildir](https://cr.yp.to/proto/maildir.html)).
//!
//! Messages keep their line ends, CRLF. Those that other programs put there may have LF.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socketserver::Fibers;

use crate::offloaded::Offloaded;

/// The age at which a file in `tmp` is left from a crash, by the rules of Maildir. A younger one
/// may be in use by another program.
const ABANDONED: Duration = Duration::from_secs(36 * 3600);

pub(crate) struct Maildir {
    pub(crate) folder: PathBuf,
}

impl Maildir {
    /// Creates the folders that do not exist, and removes abandoned files.
    pub(crate) fn open(folder: &Path) -> io::Result<Maildir> {
        for name in ["tmp", "new", "cur"] {
            DirBuilder::new().recursive(true).mode(0o700).create(folder.join(name))?;
        }
        [Some(folder), folder.parent()].into_iter().flatten().try_for_each(sync)?;
        for entry in fs::read_dir(folder.join("tmp"))? {
            match remove_abandoned(&entry?) {
                // Another program has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
        Ok(Maildir { folder: folder.to_owned() })
    }

    /// Begins a message, which is in no mailbox until it is delivered.
    pub(crate) fn spool(&self) -> io::Result<Spool> {
        let name = unique_name();
        let path = self.folder.join("tmp").join(&name);
        let file = Fibers::offload(|| create(&path))??;
        Ok(Spool { name, path, file: BufWriter::with_capacity(32 * 1024, Offloaded(file)) })
    }

    /// Puts a complete message into this mailbox, under its name.
    fn deliver(&self, spool: &Path, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join("new").join(name);
        match fs::hard_link(spool, &path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                // The file system may have no hard links, or the mailbox be on another one than
                // the spool. If the error has another reason, the copy meets it too.
                log::debug!("{} is copied, not linked: {error}", path.display());
                self.copy(spool, &path)?;
            }
            linked => linked?,
        }
        Ok(path)
    }

    fn copy(&self, spool: &Path, path: &Path) -> io::Result<()> {
        let temporary = self.folder.join("tmp").join(unique_name());
        let copied = File::open(spool).and_then(|mut message| {
            let mut copy = create(&temporary)?;
            io::copy(&mut message, &mut copy)?;
            copy.sync_all()?;
            fs::rename(&temporary, path)
        });
        if copied.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        copied
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn remove_abandoned(entry: &DirEntry) -> io::Result<()> {
    let metadata = entry.metadata()?;
    let age = metadata.modified()?.elapsed().unwrap_or_default();
    if metadata.is_file() && age > ABANDONED { fs::remove_file(entry.path()) } else { Ok(()) }
}

/// A message that is being written. Dropping it removes the file.
pub(crate) struct Spool {
    name: String,
    path: PathBuf,
    file: BufWriter<Offloaded<File>>,
}

impl Spool {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Puts the message into each of these mailboxes. On success it is on disk in all of them, and
    /// survives a crash of the machine. On an error it is in none, unless the machine crashes.
    pub(crate) fn deliver(&mut self, mailboxes: &[&Maildir]) -> io::Result<()> {
        self.file.flush()?;
        Fibers::offload(|| {
            self.file.get_ref().0.sync_all()?;
            let mut paths = Vec::new();
            let delivered = self.deliver_to(mailboxes, &mut paths);
            if delivered.is_err() {
                // The client is told of the error, and sends the message again.
                for path in paths {
                    let _ = fs::remove_file(path);
                }
            }
            delivered
        })?
    }

    fn deliver_to(&self, mailboxes: &[&Maildir], paths: &mut Vec<PathBuf>) -> io::Result<()> {
        for mailbox in mailboxes {
            paths.push(mailbox.deliver(&self.path, &self.name)?);
        }
        paths.iter().filter_map(|path| path.parent()).try_for_each(sync)
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Writes the entries of a folder to the disk.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A name that no other message has, on this machine or another.
fn unique_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (time.as_secs(), time.subsec_micros());
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    format!("{seconds}.M{micros:06}P{}Q{count}.{host}", std::process::id())
}
