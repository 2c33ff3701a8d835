//! Questions to `lookup` that every machine can answer, and invalid ones.

use crate::demos::lookup::{answer, complaint};

#[test]
fn localhost_and_addresses_in_binary_need_no_services_file() {
    for (question, expected) in [
        ("host 127.0.0.1", "127.0.0.1"),
        ("host ::1", "::1"),
        ("addr 127.0.0.1", "localhost"),
        ("pack 127.0.0.1", "7f000001"),
        ("unpack 7f000001", "127.0.0.1"),
        ("pack 2001:db8::1", "20010db8000000000000000000000001"),
        ("unpack 20010DB8000000000000000000000001", "2001:db8::1"),
    ] {
        let words: Vec<&str> = question.split(' ').collect();
        assert_eq!(answer(&words), expected, "{question}");
    }
    assert!(answer(&["host", "localhost"]).lines().any(|line| line == "127.0.0.1"));
}

#[test]
fn a_scope_is_part_of_an_address() {
    // The interface may be given by name or by number, and is shown by name.
    for question in ["fe80::1%lo", "fe80::1%1"] {
        assert_eq!(answer(&["host", question]), "fe80::1%lo");
        let all = answer(&["host", "--all", question]);
        assert!(all.ends_with("\naddress fe80::1%lo"), "{all}");
        let rows = answer(&["addrinfo", question, "80"]);
        assert!(rows.lines().all(|row| row.ends_with(" [fe80::1%lo]:80")), "{rows}");
    }
    // Two neighbours on two links may have the same address.
    assert_eq!(answer(&["host", "ff02::1%lo"]), "ff02::1%lo");
    // These are addresses, but they have no name.
    let line = complaint(&["addr", "fe80::1%lo"], 1);
    assert!(line.starts_with("lookup: fe80::1%lo: "), "{line}");
    complaint(&["addr", "fe80::1%nosuch"], 1);
    for wrong in ["127.0.0.1%lo", "localhost%lo", "%lo", "fe80::x%lo"] {
        assert!(complaint(&["addr", wrong], 2).contains("not an IPv4 or IPv6 address"));
    }
}

#[test]
fn an_invalid_question_is_a_usage_error() {
    const WRONG: &str = "\
        |nosuch|host|host a b|addr localhost|addr 127.1|fqdn a b|fqdn --all|service http/sctp|\
        service 80|service |port http|port 65536|port -1|port 80/|addrinfo localhost|\
        addrinfo localhost 65536|addrinfo localhost 4294967376|\
        sockopt SO_SNDBUF|host localhost --nosuch|host localhost --all=yes";
    assert!(complaint(&[], 2).ends_with("what to look up? (try --help)"));
    for question in WRONG.split('|') {
        let line = complaint(&question.split(' ').collect::<Vec<_>>(), 2);
        assert!(line.ends_with(" (try --help)"), "{line}");
    }
    for help in ["--help", "-h"] {
        let text = answer(&[help]);
        assert!(text.starts_with("usage: lookup COMMAND\n"));
        const COMMANDS: &str = "host addr fqdn service port protocol addrinfo pack unpack sockopt";
        for command in COMMANDS.split(' ') {
            assert!(text.lines().any(|line| line.split_whitespace().next() == Some(command)));
        }
    }
}

#[test]
fn what_is_not_8_or_32_hexadecimal_digits_is_not_unpacked() {
    const REFUSED: &str = "\
        |7f00000|7f0000010|7f 00 00 01|7f:00:00:01|+f000001|-f000001|0x7f0001|7g000001|127.0.0.1|\
        7f00000\u{661}|0000000000000000000000000000001|000000000000000000000000000000001|\
        +0000000000000000000000000000001";
    for refused in REFUSED.split('|') {
        complaint(&["unpack", refused], 2);
    }
}
