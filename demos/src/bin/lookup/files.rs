//! The files of the resolver in `/etc`, for the questions that have no safe call: the aliases of a
//! host, and protocols. A resolver that is configured to use other sources may know more.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;

/// Reads a file; the error for a missing one names the package that it is in.
pub(crate) fn read(path: &str) -> io::Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let message = format!("{path} is missing, which Debian has in the package netbase");
            Err(io::Error::new(error.kind(), message))
        }
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}

/// The number of a protocol, by its name or one of its aliases, as
/// [protocols(5)](https://man7.org/linux/man-pages/man5/protocols.5.html) has them.
pub(crate) fn protocol(protocols: &str, name: &str) -> Option<u32> {
    let mut lines = protocols.lines().map(words);
    lines.find_map(|mut words| {
        let (official, number) = (words.next()?, words.next()?);
        let is_it = official == name || words.any(|alias| alias == name);
        if is_it { number.parse().ok() } else { None }
    })
}

/// All names of an address, the official one first, as
/// [hosts(5)](https://man7.org/linux/man-pages/man5/hosts.5.html) has them.
pub(crate) fn names_of(hosts: &str, address: IpAddr) -> Vec<String> {
    let mut lines = hosts.lines().map(words);
    let line =
        lines.find(|line| line.clone().next().and_then(|word| word.parse().ok()) == Some(address));
    line.into_iter().flatten().skip(1).map(str::to_owned).collect()
}

/// The first of a host's names that has a dot, or else the official one.
pub(crate) fn full_name(names: &[String]) -> Option<&str> {
    names.iter().find(|name| name.contains('.')).or(names.first()).map(String::as_str)
}

/// All names on the lines that have this one, in the order of C's `gethostbyname`: of each line the
/// aliases, then the official name.
pub(crate) fn names_beside(hosts: &str, name: &str) -> Vec<String> {
    let mut names = Vec::new();
    for line in hosts.lines().map(words) {
        let mut line: Vec<&str> = line.skip(1).collect();
        if line.iter().any(|word| word.eq_ignore_ascii_case(name)) {
            line.rotate_left(1);
            names.extend(line.into_iter().map(str::to_owned));
        }
    }
    names
}

/// The words of a line before its comment.
fn words(line: &str) -> impl Iterator<Item = &str> + Clone {
    line.split('#').next().unwrap_or_default().split_ascii_whitespace()
}
