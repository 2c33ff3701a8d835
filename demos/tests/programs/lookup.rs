//! `lookup` beside CPython's `socket`, which asks the same resolver by other calls, and beside the
//! files that the resolver reads. No test needs a network: the answers are in files, or the name
//! cannot exist.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::Command;

use crate::demos::lookup::{RESOLVER, answer, complaint};
use crate::harness::{Test, tests};
use crate::support::process::run;

pub(crate) const TESTS: &[Test] = tests![
    a_full_name_is_the_one_that_python_says: ["python3"],
    an_address_with_a_scope_has_the_name_that_python_says: ["python3"],
    a_service_has_its_port_with_one_transport_and_perhaps_not_with_the_other:
        ["python3", "/etc/services"],
    a_sockets_options_are_those_that_python_says: ["python3"],
    services_and_ports_are_those_that_python_says: ["python3", "/etc/services"],
    the_names_and_addresses_of_a_host_are_those_that_python_and_getent_say: ["python3", "getent"],
    the_names_of_an_address_are_those_that_python_says: ["python3"],
    the_numbers_of_protocols_are_those_that_python_says: ["python3", "/etc/protocols"],
    the_rows_of_addrinfo_are_pythons: ["python3", "/etc/services"],
    well_known_services_and_protocols_are_found: ["/etc/services", "/etc/protocols"],
    what_is_not_found_is_said_in_the_systems_words: ["python3", "/etc/services"],
];

/// Runs a Python script; returns the fields of each line that it prints.
#[track_caller]
pub(crate) fn python(script: &str, arguments: &[&str]) -> Vec<Vec<String>> {
    const BEFORE: &str = "
import socket, sys
def row(*fields): print(*fields, sep='\\t')
";
    let mut command = Command::new("python3");
    command.args(["-c", &format!("{BEFORE}{script}")]).args(arguments).env(RESOLVER.0, RESOLVER.1);
    let ended = run(command, "");
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""));
    let lines = ended.text().lines();
    lines.map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// The two fields of each row.
#[track_caller]
pub(crate) fn pairs(rows: &[Vec<String>]) -> impl Iterator<Item = (&str, &str)> {
    rows.iter().map(|row| match row.as_slice() {
        [first, second] => (first.as_str(), second.as_str()),
        other => panic!("two fields: {other:?}"),
    })
}

/// The values with this label in the output of `--all`.
fn labelled<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    let parts = text.lines().filter_map(|line| line.split_once(' '));
    parts.filter(|part| part.0 == label).map(|part| part.1).collect()
}

/// Some addresses in `/etc/hosts`, with their names.
fn hosts() -> Vec<(String, Vec<String>)> {
    let text = std::fs::read_to_string("/etc/hosts").expect("/etc/hosts, with localhost in it");
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let words = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let hosts = words.filter_map(|words| Some((words.first()?.clone(), words[1..].to_vec())));
    hosts.take(16).collect()
}

fn well_known_services_and_protocols_are_found() {
    for (question, expected) in [
        ("service http", "80"),
        ("service https/tcp", "443"),
        ("service pop3", "110"),
        ("service smtp", "25"),
        ("service ntp", "123"),
        ("service ntp/udp", "123"),
        ("port 80", "http"),
        ("port 110/tcp", "pop3"),
        ("port 123", "ntp"),
        ("port 53/udp", "domain"),
        ("protocol icmp", "1"),
        ("protocol tcp", "6"),
        ("protocol udp", "17"),
        ("protocol UDP", "17"),
    ] {
        let words: Vec<&str> = question.split(' ').collect();
        assert_eq!(answer(&words), expected, "{question}");
    }
}

fn the_names_and_addresses_of_a_host_are_those_that_python_and_getent_say() {
    const SCRIPT: &str = "
for name in sys.argv[1:]:
    hostname, aliases, addresses = socket.gethostbyname_ex(name)
    infos = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    every = dict.fromkeys(info[4][0] for info in infos)
    row(name, hostname, ' '.join(aliases), ' '.join(addresses), ' '.join(every))
";
    let hosts = hosts();
    // gethostbyname_ex would ask the DNS for a name that has only an IPv6 address.
    let hosts = hosts.iter().filter(|(address, _)| address.contains('.'));
    let names: BTreeSet<&str> = hosts.flat_map(|(_, names)| names).map(String::as_str).collect();
    assert!(names.contains("localhost"), "{names:?}");
    let names: Vec<&str> = names.into_iter().collect();
    for fields in python(SCRIPT, &names) {
        let [name, hostname, aliases, ipv4, every] = &fields[..] else { panic!("{fields:?}") };
        let addresses: Vec<&str> = every.split(' ').collect();
        assert_eq!(answer(&["host", name]).lines().collect::<Vec<_>>(), addresses, "{name}");

        let all = answer(&["host", "--all", name]);
        assert_eq!(labelled(&all, "hostname"), [hostname], "{name}");
        assert_eq!(labelled(&all, "address"), addresses, "{name}");
        let of_ipv4: BTreeSet<&str> = ipv4.split(' ').collect();
        let ours = labelled(&all, "address").into_iter().filter(|address| address.contains('.'));
        assert_eq!(ours.collect::<BTreeSet<_>>(), of_ipv4, "{name}");

        // gethostbyname_ex omits the aliases that only an IPv6 address has.
        let mut getent = Command::new("getent");
        getent.args(["-s", "files", "hosts", name]);
        let getent = run(getent, "");
        let by_getent = getent.text().lines().flat_map(|line| line.split_whitespace().skip(1));
        let mut expected: BTreeSet<&str> = aliases.split_whitespace().chain(by_getent).collect();
        expected.remove(hostname.as_str());
        let aliases = labelled(&all, "alias");
        assert_eq!(aliases.iter().copied().collect::<BTreeSet<_>>(), expected, "{name}");
        assert_eq!(aliases.len(), expected.len(), "each once: {all}");
    }
}

fn the_names_of_an_address_are_those_that_python_says() {
    const SCRIPT: &str = "
for address in sys.argv[1:]:
    hostname, aliases, _ = socket.gethostbyaddr(address)
    row(address, hostname, ' '.join(aliases))
";
    let hosts = hosts();
    let addresses: BTreeSet<&str> = hosts.iter().map(|(address, _)| address.as_str()).collect();
    let addresses: Vec<&str> = addresses.into_iter().collect();
    for fields in python(SCRIPT, &addresses) {
        let [address, hostname, aliases] = &fields[..] else { panic!("{fields:?}") };
        assert_eq!(answer(&["addr", address]), *hostname, "{address}");
        let all = answer(&["addr", address, "--all"]);
        assert_eq!(labelled(&all, "hostname"), [hostname], "{address}");
        assert_eq!(labelled(&all, "alias").join(" "), *aliases, "{address}");
        // The file may have another form of the address.
        let parsed: IpAddr = address.parse().unwrap();
        assert_eq!(labelled(&all, "address"), [parsed.to_string()], "{address}");
    }
}

fn an_address_with_a_scope_has_the_name_that_python_says() {
    const SCRIPT: &str = "
for address in sys.argv[1:]:
    try: row(address, socket.gethostbyaddr(address)[0])
    except OSError: row(address, 'not found')
";
    // The scope does not change the name.
    let rows = python(SCRIPT, &["::1", "::1%1", "fe80::1%lo", "fe80::1%1"]);
    for (address, expected) in pairs(&rows) {
        match expected {
            "not found" => _ = complaint(&["addr", address], 1),
            _ => {
                assert_eq!(answer(&["addr", address]), expected, "{address}");
                let all = answer(&["addr", "--all", address]);
                assert_eq!(labelled(&all, "address"), [address]);
            }
        }
    }
}

fn a_full_name_is_the_one_that_python_says() {
    const SCRIPT: &str = "
for name in sys.argv[1:]: row(repr(name), socket.getfqdn(name))
";
    let hosts = hosts();
    let names = hosts.iter().flat_map(|(address, names)| names.iter().chain([address]));
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    // The last one is not a host, and is returned unchanged.
    names.extend(["", " localhost ", "0.0.0.0", "127.1", "fe80::1%nosuch"]);
    let rows = python(SCRIPT, &names);
    assert_eq!(rows.len(), names.len());
    for (name, (shown, expected)) in names.iter().zip(pairs(&rows)) {
        assert_eq!(answer(&["fqdn", name]), expected, "{shown}");
        if name.is_empty() {
            assert_eq!(answer(&["fqdn"]), expected);
        }
    }
}

fn services_and_ports_are_those_that_python_says() {
    const SCRIPT: &str = "
lines = [line.split('#')[0].split() for line in open('/etc/services')]
lines = [line for line in lines if line and line[1].endswith(('/tcp', '/udp'))]
for line in lines[::3]:
    port, transport = line[1].split('/')
    for name in [line[0]] + line[2:]:
        row(f'service {name}', socket.getservbyname(name))
        row(f'service {name}/{transport}', socket.getservbyname(name, transport))
    row(f'port {port}', socket.getservbyport(int(port)))
    row(f'port {port}/{transport}', socket.getservbyport(int(port), transport))
";
    // The script takes each third line, since each question is a process.
    let rows = python(SCRIPT, &[]);
    assert!(rows.len() > 200, "{} questions about /etc/services", rows.len());
    for (question, expected) in pairs(&rows) {
        let words: Vec<&str> = question.split(' ').collect();
        assert_eq!(answer(&words), expected, "{question}");
    }
}

fn a_service_has_its_port_with_one_transport_and_perhaps_not_with_the_other() {
    const SCRIPT: &str = "
for question in sys.argv[1:]:
    name, transport = question.split('/')
    try:
        if name.isdigit(): row(question, socket.getservbyport(int(name), transport))
        else: row(question, socket.getservbyname(name, transport))
    except OSError: row(question, 'not found')
";
    let questions =
        ["smtp/udp", "smtp/tcp", "tftp/tcp", "tftp/udp", "514/tcp", "514/udp", "69/tcp", "4/udp"];
    let rows = python(SCRIPT, &questions);
    assert!(pairs(&rows).any(|(_, expected)| expected == "not found"), "{rows:?}");
    for (question, expected) in pairs(&rows) {
        let command = if question.starts_with(char::is_numeric) { "port" } else { "service" };
        match expected {
            "not found" => assert!(complaint(&[command, question], 1).contains(question)),
            _ => assert_eq!(answer(&[command, question]), expected, "{question}"),
        }
    }
}

fn the_numbers_of_protocols_are_those_that_python_says() {
    const SCRIPT: &str = "
lines = [line.split('#')[0].split() for line in open('/etc/protocols')]
for line in filter(None, lines):
    for name in [line[0]] + line[2:]: row(name, socket.getprotobyname(name))
";
    let rows = python(SCRIPT, &[]);
    assert!(rows.len() > 20, "{} questions about /etc/protocols", rows.len());
    for (name, expected) in pairs(&rows) {
        assert_eq!(answer(&["protocol", name]), expected, "{name}");
    }
    assert_eq!(complaint(&["protocol", "nosuch"], 1), "lookup: nosuch: protocol not found");
    // A number is not a name.
    assert!(complaint(&["protocol", "6"], 1).contains("protocol not found"));
}

fn the_rows_of_addrinfo_are_pythons() {
    const SCRIPT: &str = "
host, service = sys.argv[1:]
infos = socket.getaddrinfo(host, service, flags=socket.AI_CANONNAME)
for family, type, protocol, canonical, address in infos:
    text = '[%s]:%d' if family == socket.AF_INET6 else '%s:%d'
    print(family.name, type.name, protocol, canonical or '-', text % address[:2])
";
    let questions = [
        ["localhost", "http"],
        ["localhost", "domain"],
        ["localhost", "8080"],
        ["127.0.0.1", "https"],
        ["127.1", "ntp"],
        ["::1", "53"],
        ["2001:db8::1", "pop3"],
    ];
    for question in questions {
        let expected: Vec<String> = python(SCRIPT, &question).concat();
        let [host, service] = question;
        let ours = answer(&["addrinfo", host, service]);
        let rows = ours.lines().map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(rows.collect::<Vec<_>>(), expected, "{question:?}");
    }
    let rows = answer(&["addrinfo", "127.0.0.1", "http"]);
    assert_eq!(rows, "AF_INET  SOCK_STREAM 6   127.0.0.1 127.0.0.1:80");
}

fn a_sockets_options_are_those_that_python_says() {
    const SCRIPT: &str = "
sock = socket.socket()
def option(name): return sock.getsockopt(socket.SOL_SOCKET, getattr(socket, name))
print('SO_SNDBUF', option('SO_SNDBUF'))
print('SO_REUSEADDR', option('SO_REUSEADDR'))
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
print('SO_REUSEADDR', option('SO_REUSEADDR'))
";
    let ours = answer(&["sockopt"]);
    assert_eq!(ours, python(SCRIPT, &[]).concat().join("\n"));
    assert!(ours.ends_with("\nSO_REUSEADDR 0\nSO_REUSEADDR 1"), "{ours}");
}

fn what_is_not_found_is_said_in_the_systems_words() {
    const SCRIPT: &str = "
for host, service in zip(sys.argv[1::2], sys.argv[2::2]):
    try: socket.getaddrinfo(host.encode(), service)
    except OSError as error: row(host, error.strerror)
";
    // A label that is too long, and an interface that does not exist: the resolver asks no server.
    let long = "x".repeat(64);
    let questions = [&*long, "http", "fe80::1%nosuch", "http", "127.0.0.1", "nosuch"];
    let rows = python(SCRIPT, &questions);
    let words: Vec<&str> = pairs(&rows).map(|(_, message)| message).collect();
    let [of_long, of_scope, of_service] = words[..] else { panic!("{words:?}") };
    assert!(complaint(&["host", &long], 1).ends_with(of_long));
    assert!(complaint(&["host", "--all", &long], 1).ends_with(of_long));
    assert!(complaint(&["host", "fe80::1%nosuch"], 1).ends_with(of_scope));
    assert!(complaint(&["addrinfo", &long, "http"], 1).ends_with(of_long));
    assert!(complaint(&["addrinfo", "127.0.0.1", "nosuch"], 1).ends_with(of_service));
    assert!(complaint(&["service", "nosuch"], 1).ends_with(of_service));
    assert!(complaint(&["host", "a\u{1b}[2J..b"], 1).contains("a\u{fffd}[2J..b: "));
}
