//! A Maildir as POP3 sees it: the messages that were there when the session began. No other session
//! can remove them.

use std::fs::{self, DirEntry, File, TryLockError};
use std::io::{self, BufReader};
use std::path::PathBuf;

use socketserver::Fibers;

use crate::data;
use crate::maildir::Maildir;
use crate::offloaded::Offloaded;

/// For reading a message, in bytes.
const BUFFER: usize = 32 * 1024;

pub(crate) struct Mailbox {
    pub(crate) messages: Vec<Message>,
    /// A lock of the folder itself, so that no lock file is left. It excludes sessions of this
    /// process and of others.
    _lock: File,
}

pub(crate) struct Message {
    path: PathBuf,
    /// In bytes, as [`data::size`] counts them.
    pub(crate) size: u64,
    /// Is the same in each session (RFC 1939, `UIDL`).
    pub(crate) unique_id: String,
    pub(crate) is_deleted: bool,
}

impl Mailbox {
    /// `None` while another session has the lock.
    pub(crate) fn open(maildir: &Maildir) -> io::Result<Option<Mailbox>> {
        Fibers::offload(|| {
            let lock = File::open(&maildir.folder)?;
            match lock.try_lock() {
                Ok(()) => Ok(Some(Mailbox { messages: messages(maildir)?, _lock: lock })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        })?
    }

    /// Removes the messages marked as deleted, and releases the lock.
    pub(crate) fn update(self) -> io::Result<()> {
        Fibers::offload(|| {
            let deleted = self.messages.iter().filter(|message| message.is_deleted);
            let removed: Vec<_> = deleted.map(|message| fs::remove_file(&message.path)).collect();
            removed.into_iter().collect()
        })?
    }
}

impl Message {
    pub(crate) fn open(&self) -> io::Result<BufReader<Offloaded<File>>> {
        let file = Fibers::offload(|| File::open(&self.path))??;
        Ok(BufReader::with_capacity(BUFFER, Offloaded(file)))
    }
}

/// In the order of arrival.
fn messages(maildir: &Maildir) -> io::Result<Vec<Message>> {
    let mut messages = Vec::new();
    for folder in ["new", "cur"] {
        for entry in fs::read_dir(maildir.folder.join(folder))? {
            match entry.and_then(|entry| message(&entry)) {
                Ok(message) => messages.extend(message),
                // Another program has moved the file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    messages.sort_by(|one, other| one.path.file_name().cmp(&other.path.file_name()));
    Ok(messages)
}

/// `None` for what is no message.
fn message(entry: &DirEntry) -> io::Result<Option<Message>> {
    let (path, name) = (entry.path(), entry.file_name());
    if name.as_encoded_bytes().starts_with(b".") || !entry.metadata()?.is_file() {
        return Ok(None);
    }
    // Reads all mail at each login. The length of the file is another size if lines end with LF.
    let size = data::size(&mut BufReader::with_capacity(BUFFER, File::open(&path)?))?;
    let unique_id = unique_id(&name.to_string_lossy());
    Ok(Some(Message { path, size, unique_id, is_deleted: false }))
}

/// The name of a message without the flags after the colon, or a hash of it if it is not valid for
/// UIDL.
fn unique_id(name: &str) -> String {
    let name = name.split(':').next().unwrap_or(name);
    let is_short =
        (1..=70).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if is_short { name.to_owned() } else { format!("{:016x}", fnv1a(name.as_bytes())) }
}

/// FNV-1a: std's hashes may change between versions.
fn fnv1a(bytes: &[u8]) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, add)
}
