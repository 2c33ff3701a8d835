//! The users that have a mailbox.

use std::io;
use std::path::Path;

use constant_time_eq::constant_time_eq;

use crate::envelope;
use crate::maildir::Maildir;

const POSTMASTER: &str = "postmaster";

pub(crate) struct User {
    name: String,
    password: String,
    pub(crate) maildir: Maildir,
}

pub(crate) struct Users {
    pub(crate) domain: String,
    users: Vec<User>,
}

impl Users {
    pub(crate) fn new(domain: &str) -> Users {
        Users { domain: domain.to_owned(), users: Vec::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Whether a user can be added. The name is also that of a folder.
    pub(crate) fn check(&self, name: &str, password: &str) -> Result<(), String> {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(is_safe)
        {
            return Err(
                "a name has up to 64 letters, digits, -, _ and ., and begins with none".into()
            );
        }
        // A password has to fit into a command line of POP3.
        let is_typed = password.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if password.is_empty() || password.len() > 200 || !is_typed {
            return Err("a password has from 1 to 200 characters of ASCII".into());
        }
        match self.find(name) {
            None => Ok(()),
            Some(_) => Err("has a mailbox already".into()),
        }
    }

    /// Adds a user that has passed [`check`](Users::check).
    pub(crate) fn add(&mut self, name: &str, password: &str, folder: &Path) -> io::Result<()> {
        let maildir = Maildir::open(folder)?;
        self.users.push(User { name: name.to_owned(), password: password.to_owned(), maildir });
        Ok(())
    }

    /// The user that receives mail for this address; `None` if it is of another domain.
    pub(crate) fn recipient(&self, path: &envelope::Path) -> Option<&User> {
        let name = match path {
            envelope::Path::Null => return None,
            envelope::Path::Postmaster => POSTMASTER,
            envelope::Path::Mailbox { local, domain, .. } => {
                domain.eq_ignore_ascii_case(&self.domain).then_some(local.as_str())?
            }
        };
        let user = self.find(name);
        // Mail for the postmaster must be accepted (RFC 5321, 4.5.1).
        let first = name.eq_ignore_ascii_case(POSTMASTER).then(|| self.users.first());
        user.or(first.flatten())
    }

    pub(crate) fn log_in(&self, name: &str, password: &str) -> Option<&User> {
        let user = self.find(name);
        // The comparison takes the same time for a user that does not exist.
        let expected = user.map_or("", |user| &user.password);
        let is_right = constant_time_eq(password.as_bytes(), expected.as_bytes());
        user.filter(|_| is_right && !expected.is_empty())
    }

    /// Ignores case, as other servers do, although RFC 5321 does not.
    fn find(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.name.eq_ignore_ascii_case(name))
    }
}
