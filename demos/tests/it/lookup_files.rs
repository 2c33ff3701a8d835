//! How `lookup` parses the files in `/etc`, with more in them than a machine may have.

#[path = "../../src/bin/lookup/files.rs"]
mod files;

use crate::support::TempDir;

const HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\t\tlocalhost ip6-localhost ip6-loopback
# 127.0.0.3 box commented-out
  127.0.0.2 box.example.org box www # the box
10.1.2.3 Other.example.org BOX
10.1.2.3 later
broken
";

#[test]
fn the_names_beside_a_name_are_those_of_gethostbyname() {
    let beside = |name| files::names_beside(HOSTS, name);
    assert_eq!(beside("ip6-loopback"), ["ip6-localhost", "ip6-loopback", "localhost"]);
    let of_box = ["box", "www", "box.example.org", "BOX", "Other.example.org"];
    assert_eq!(beside("box"), of_box);
    assert_eq!(beside("Box"), of_box);
    assert_eq!(beside("WWW.").len(), 0);
    for name in ["commented-out", "127.0.0.2", "the", "", "broken"] {
        assert!(beside(name).is_empty(), "{name}");
    }
}

#[test]
fn the_names_of_an_address_are_those_of_its_first_line() {
    let of = |address: &str| files::names_of(HOSTS, address.parse().unwrap());
    assert_eq!(of("127.0.0.2"), ["box.example.org", "box", "www"]);
    assert_eq!(of("10.1.2.3"), ["Other.example.org", "BOX"]);
    assert_eq!(of("0:0:0:0:0:0:0:1"), ["localhost", "ip6-localhost", "ip6-loopback"]);
    assert!(of("127.0.0.3").is_empty());
}

#[test]
fn a_full_name_is_the_first_that_has_a_dot() {
    let of = |names: &str| {
        let names: Vec<String> = names.split_whitespace().map(str::to_owned).collect();
        files::full_name(&names).map(str::to_owned)
    };
    assert_eq!(of("box box.example.org www.example.org").as_deref(), Some("box.example.org"));
    assert_eq!(of("box.example.org box").as_deref(), Some("box.example.org"));
    assert_eq!(of("box www").as_deref(), Some("box"));
    assert_eq!(of(""), None);
}

#[test]
fn a_protocol_has_its_number_by_any_of_its_names() {
    let protocols =
        "# a comment\n\nip 0 IP # once more\nudp\t17\tUDP Datagrams\nbroken x B\nshort\nmptcp 262";
    let of = |name| files::protocol(protocols, name);
    assert_eq!(
        (of("ip"), of("IP"), of("udp"), of("Datagrams")),
        (Some(0), Some(0), Some(17), Some(17))
    );
    assert_eq!(of("mptcp"), Some(262));
    for name in ["Udp", "17", "", "once", "broken", "short", "#"] {
        assert_eq!(of(name), None, "{name}");
    }
}

#[test]
fn the_error_for_a_missing_file_names_its_package() {
    let directory = TempDir::new();
    let path = directory.join("protocols");
    let path = path.to_str().unwrap();
    let error = files::read(path).unwrap_err().to_string();
    assert_eq!(error, format!("{path} is missing, which Debian has in the package netbase"));
    std::fs::write(path, b"\xff 1\nip 0\n").unwrap();
    assert_eq!(files::protocol(&files::read(path).unwrap(), "ip"), Some(0));
}
