//! Parses the addresses of MAIL and RCPT
//! ([RFC 5321, 4.1.2](https://www.rfc-editor.org/rfc/rfc5321#section-4.1.2)), and their limits
//! ([4.5.3.1](https://www.rfc-editor.org/rfc/rfc5321#section-4.5.3.1)).

use std::net::IpAddr;

const MAX_LOCAL_PART: usize = 64;
const MAX_DOMAIN: usize = 255;
const MAX_PATH: usize = 256;

/// The text between `<` and `>`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Path<'a> {
    /// `<>`, the sender of mail that must not be answered.
    Null,
    /// `<postmaster>`, which needs no domain.
    Postmaster,
    Mailbox {
        /// Without quotes.
        local: String,
        domain: &'a str,
        /// The address as it was sent, with quotes.
        written: &'a str,
    },
}

/// Parses a path; returns it and the rest of the text. A source route is ignored.
pub(crate) fn path(text: &str) -> Option<(Path<'_>, &str)> {
    let inner = text.strip_prefix('<')?;
    if let Some(rest) = inner.strip_prefix('>') {
        return Some((Path::Null, rest));
    }
    if let Some((name, rest)) = inner.split_at_checked("postmaster".len())
        && name.eq_ignore_ascii_case("postmaster")
        && let Some(rest) = rest.strip_prefix('>')
    {
        return Some((Path::Postmaster, rest));
    }
    let mailbox = if inner.starts_with('@') { after_route(inner)? } else { inner };
    let (local, rest) = local_part(mailbox)?;
    let (domain, rest) = domain(rest.strip_prefix('@')?)?;
    let written = mailbox.strip_suffix(rest)?;
    let rest = rest.strip_prefix('>')?;
    let fits = local.len() <= MAX_LOCAL_PART && text.len() - rest.len() <= MAX_PATH;
    fits.then_some((Path::Mailbox { local, domain, written }, rest))
}

/// Whether the text is a domain, or an address in brackets.
pub(crate) fn is_domain(text: &str) -> bool {
    domain(text).is_some_and(|(_, rest)| rest.is_empty())
}

/// The text after a source route such as `@one.example,@two.example:`.
fn after_route(mut text: &str) -> Option<&str> {
    loop {
        let (_, rest) = domain(text.strip_prefix('@')?)?;
        match rest.strip_prefix(',') {
            Some(next) => text = next,
            None => return rest.strip_prefix(':'),
        }
    }
}

fn local_part(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        return unquoted(quoted);
    }
    let (dotted, rest) = split_where(text, |c| !is_atom_character(c) && c != '.');
    let is_valid = dotted.split('.').all(|atom| !atom.is_empty());
    is_valid.then(|| (dotted.to_owned(), rest))
}

fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut local = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some((local, characters.as_str())),
            '\\' => local.push(characters.next()?),
            character => local.push(character),
        }
    }
}

fn domain(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('[') {
        let (domain, rest) = text.split_at_checked(text.find(']')? + 1)?;
        return is_literal(domain).then_some((domain, rest));
    }
    // The underscore is not allowed in a domain, but some host names have one.
    let (domain, rest) = split_where(text, |c| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    (domain.len() <= MAX_DOMAIN && domain.split('.').all(is_label)).then_some((domain, rest))
}

/// `[127.0.0.1]` or `[IPv6:::1]`.
fn is_literal(text: &str) -> bool {
    let Some(address) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) else {
        return false;
    };
    let (tag, ip) = address.split_at_checked("IPv6:".len()).unwrap_or(("", address));
    match tag.eq_ignore_ascii_case("IPv6:") {
        true => ip.parse().is_ok_and(|ip: IpAddr| ip.is_ipv6()),
        false => address.parse().is_ok_and(|ip: IpAddr| ip.is_ipv4()),
    }
}

fn is_atom_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(character)
}

fn split_where(text: &str, is_end: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(is_end).unwrap_or(text.len()))
}
