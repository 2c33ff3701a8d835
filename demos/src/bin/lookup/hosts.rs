//! Hosts: from names to addresses, and back. An IPv6 address may have a scope, as in `fe80::1%eth0`.

use std::error::Error;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::{io, iter};

use dns_lookup::{
    AddrFamily, AddrInfo, AddrInfoHints, LookupError, SockType, get_hostname, getaddrinfo,
    getnameinfo,
};

use crate::answer::{Answer, failed, usage_error};
use crate::{files, services};

const HOSTS: &str = "/etc/hosts";

pub(crate) fn host(name: &str, all: bool) -> Answer {
    let found = resolve(name, None).map_err(|error| failed(name, error))?;
    // getaddrinfo returns an address once for each type of socket.
    let addresses = found.iter().map(|info| with_scope(&info.sockaddr));
    let addresses = without_repetitions(addresses.collect::<Result<Vec<_>, _>>()?.into_iter());
    if !all {
        return Ok(addresses);
    }
    let canonical = found.first().and_then(|info| info.canonname.as_deref()).unwrap_or(name);
    let mut names = vec![canonical.to_owned()];
    names.extend(names_in_file(|hosts| files::names_beside(hosts, name)));
    let is_in_file = names.len() > 1;
    if !is_in_file && !canonical.eq_ignore_ascii_case(name) {
        // The name is an alias in the DNS (a CNAME).
        names.push(name.to_owned());
    }
    Ok(triple(names, &addresses))
}

pub(crate) fn addr(address: &str, all: bool) -> Answer {
    let parsed = parse(address)?;
    let names = names_of(&parsed).map_err(|error| failed(address, error))?;
    match all {
        true => Ok(triple(names, &[with_scope(&parsed)?])),
        false => Ok(names.into_iter().take(1).collect()),
    }
}

/// Parses an address, with port 0. The system knows the interface that a scope names.
fn parse(text: &str) -> Result<SocketAddr, Box<dyn Error>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, 0).into());
    }
    let is_scoped =
        text.split_once('%').is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok());
    if !is_scoped {
        return Err(usage_error(format!("{text:?} is not an IPv4 or IPv6 address")));
    }
    let found = resolve(text, None).map_err(|error| failed(text, error))?;
    let first = found.first().ok_or_else(|| failed(text, "no address"))?;
    Ok(first.sockaddr)
}

/// The first of a host's names that has a dot, as CPython's `socket.getfqdn`. For a host that is
/// not found, the name itself.
pub(crate) fn fqdn(name: &str) -> Answer {
    let name = match name.trim() {
        "" | "0.0.0.0" | "::" => get_hostname()?,
        name => name.to_owned(),
    };
    let first = resolve(&name, None).ok().and_then(|found| Some(found.first()?.sockaddr));
    let names = first.and_then(|address| names_of(&address).ok()).unwrap_or_default();
    Ok(vec![files::full_name(&names).map_or(name, str::to_owned)])
}

/// A row for each way to connect, as CPython's `socket.getaddrinfo`.
pub(crate) fn addrinfo(host: &str, service: &str) -> Answer {
    // getaddrinfo would reduce a larger number modulo 65536.
    let is_number = !service.is_empty() && service.bytes().all(|byte| byte.is_ascii_digit());
    if is_number && service.parse::<u16>().is_err() {
        return Err(usage_error(format!("{service:?} is not a port number")));
    }
    let found = resolve(host, Some(service));
    let found =
        found.map_err(|error| failed(&format!("{host} {service}"), services::why(error)))?;
    Ok(found.iter().map(row).collect::<Result<_, _>>()?)
}

fn row(info: &AddrInfo) -> Result<String, LookupError> {
    let family = match info.address {
        number if number == AddrFamily::Inet => "AF_INET".to_owned(),
        number if number == AddrFamily::Inet6 => "AF_INET6".to_owned(),
        number => number.to_string(),
    };
    let socket_type = match info.socktype {
        number if number == SockType::Stream => "SOCK_STREAM".to_owned(),
        number if number == SockType::DGram => "SOCK_DGRAM".to_owned(),
        number if number == SockType::Raw => "SOCK_RAW".to_owned(),
        number => number.to_string(),
    };
    // Only the first row has one.
    let canonical = info.canonname.as_deref().unwrap_or("-");
    let address = with_scope(&info.sockaddr)?;
    let address = if info.sockaddr.is_ipv6() { format!("[{address}]") } else { address };
    let (protocol, port) = (info.protocol, info.sockaddr.port());
    Ok(format!("{family:<8} {socket_type:<11} {protocol:<3} {canonical} {address}:{port}"))
}

/// The address without its port, but with its scope by name, which `SocketAddr` shows by number.
fn with_scope(address: &SocketAddr) -> Result<String, LookupError> {
    Ok(getnameinfo(address, libc::NI_NUMERICHOST | libc::NI_NUMERICSERV)?.0)
}

/// All addresses of a host and service; the first has the canonical name.
fn resolve(host: &str, service: Option<&str>) -> Result<Vec<AddrInfo>, LookupError> {
    let hints = AddrInfoHints { flags: libc::AI_CANONNAME, ..AddrInfoHints::default() };
    Ok(getaddrinfo(Some(host), service, Some(hints))?.collect::<io::Result<_>>()?)
}

/// The name of an address, followed by its aliases if the name is from `/etc/hosts`.
fn names_of(address: &SocketAddr) -> Result<Vec<String>, LookupError> {
    let (hostname, _) = getnameinfo(address, libc::NI_NAMEREQD | libc::NI_NUMERICSERV)?;
    let names = names_in_file(|hosts| files::names_of(hosts, address.ip()));
    Ok(if names.first() == Some(&hostname) { names } else { vec![hostname] })
}

/// The names found in `/etc/hosts`; none if there is no such file.
fn names_in_file(find: impl FnOnce(&str) -> Vec<String>) -> Vec<String> {
    files::read(HOSTS).map_or_else(|_| Vec::new(), |hosts| find(&hosts))
}

/// The result of CPython's `gethostbyname_ex` and `gethostbyaddr`: the hostname, which is the first
/// of the names, the aliases, and the addresses.
fn triple(names: Vec<String>, addresses: &[String]) -> Vec<String> {
    let labels = iter::once("hostname").chain(iter::repeat("alias"));
    let names = without_repetitions(names.into_iter()).into_iter();
    let mut lines: Vec<String> =
        labels.zip(names).map(|(label, name)| format!("{label} {name}")).collect();
    lines.extend(addresses.iter().map(|address| format!("address {address}")));
    lines
}

fn without_repetitions<T: PartialEq>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for item in items {
        if !unique.contains(&item) {
            unique.push(item);
        }
    }
    unique
}
