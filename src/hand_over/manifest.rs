//! [`Entry`]: what is said of each listener that is handed over, in a line of its own.

use crate::address::{Endpoint, Scheme};
use crate::state::ListenerInfo;

/// The most listeners: as many as the descriptors that one message carries.
pub(super) const MAX_LISTENERS: usize = crate::sys::rights::MAX_DESCRIPTORS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) scheme: Scheme,
    /// Without the TLS of its server.
    pub(super) is_plain: bool,
    /// The address that it is bound to, as it is shown.
    pub(super) address: String,
    /// What it was bound for, if its server has bound it.
    pub(super) endpoint: Option<Endpoint>,
}

/// The words for the schemes.
const SCHEMES: [(Scheme, &str); 4] = [
    (Scheme::Tcp, "tcp"),
    (Scheme::Udp, "udp"),
    (Scheme::Unix, "unix"),
    (Scheme::UnixDatagram, "unixgram"),
];

/// In place of an endpoint, for a socket that was bound elsewhere.
const NO_ENDPOINT: &str = "-";

impl Entry {
    pub(super) fn new(scheme: Scheme, info: &ListenerInfo, has_tls: bool) -> Entry {
        Entry {
            scheme,
            is_plain: has_tls && !info.is_tls,
            address: info.local_addr.to_string(),
            endpoint: info.endpoint().cloned(),
        }
    }

    /// Fields between tabs. Addresses and endpoints are shown without control characters.
    pub(super) fn line(&self) -> String {
        let scheme = SCHEMES.iter().find(|(scheme, _)| *scheme == self.scheme);
        let scheme = scheme.map_or("", |(_, word)| word);
        let how = if self.is_plain { "plain" } else { "default" };
        let endpoint = self.endpoint.as_ref().map(Endpoint::to_string);
        let endpoint = endpoint.as_deref().unwrap_or(NO_ENDPOINT);
        format!("{scheme}\t{how}\t{}\t{endpoint}", self.address)
    }

    /// `None` for any other line.
    pub(super) fn parse(line: &str) -> Option<Entry> {
        let fields: Vec<_> = line.split('\t').collect();
        let [scheme, how, address, endpoint] = fields[..] else { return None };
        let (scheme, _) = SCHEMES.iter().find(|(_, word)| *word == scheme)?;
        let is_plain = match how {
            "plain" => true,
            "default" => false,
            _ => return None,
        };
        let endpoint = match endpoint {
            NO_ENDPOINT => None,
            endpoint => Some(endpoint.parse().ok()?),
        };
        Some(Entry { scheme: *scheme, is_plain, address: address.to_owned(), endpoint })
    }
}

/// The line before the entries.
pub(super) fn count_line(count: usize) -> String {
    format!("listeners {count}")
}

/// How many entries follow; `None` for any other line, and for more than there can be.
pub(super) fn parse_count(line: &str) -> Option<usize> {
    let count = line.strip_prefix("listeners ")?.parse().ok()?;
    (1..=MAX_LISTENERS).contains(&count).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::UnixName;

    #[test]
    fn what_is_written_is_read() {
        let odd = UnixName::Path("/run/\t\n-\\x \u{1F980}".into());
        for (scheme, address, endpoint) in [
            (Scheme::Tcp, "127.0.0.1:25", Some("localhost:0".parse().unwrap())),
            (Scheme::Unix, "/run/x", Some(Endpoint::try_from(odd).unwrap())),
            (Scheme::UnixDatagram, "@x", None),
            (Scheme::Udp, "[::1]:53", Some("udp://[::1]:53".parse().unwrap())),
        ] {
            let address = address.to_owned();
            let entry = Entry { scheme, is_plain: endpoint.is_none(), address, endpoint };
            assert_eq!(Entry::parse(&entry.line()), Some(entry));
        }
        assert_eq!(parse_count(&count_line(3)), Some(3));
    }

    #[test]
    fn anything_else_is_refused() {
        for line in [
            "",
            "tcp",
            "tcp\tdefault\t127.0.0.1:1",
            "tcp\tdefault\t127.0.0.1:1\t-\t",
            "sctp\tdefault\t127.0.0.1:1\t-",
            "tcp\ttls\t127.0.0.1:1\t-",
            "tcp\tdefault\t127.0.0.1:1\t",
            "tcp\tdefault\t127.0.0.1:1\tunix:",
            "TCP\tdefault\t127.0.0.1:1\t-",
        ] {
            assert_eq!(Entry::parse(line), None, "{line:?}");
        }
        for line in
            ["", "listeners", "listeners 0", "listeners -1", "listeners 254", "listeners 1 "]
        {
            assert_eq!(parse_count(line), None, "{line:?}");
        }
    }
}
