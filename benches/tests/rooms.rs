//! What `--rooms` says where it cannot be measured.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_socketserver-benches"));
    // There is no program in it.
    command.env("PATH", env!("CARGO_TARGET_TMPDIR"));
    command.args(arguments).output().unwrap()
}

#[test]
fn without_redis_server_it_says_which_package_has_it() {
    let output = run(&["--rooms", "--quick"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said, "error: there is no redis-server; Debian's package redis-server has it\n");
}

#[test]
fn flags_that_choose_among_other_things_are_refused_with_it() {
    for flag in [&["--case", "room"][..], &["--server", "tokio"], &["--charts", "."], &["--curves"]]
    {
        let output = run(&[&["--rooms"], flag].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("--rooms goes with"), "{said}");
    }
}
