//! How `--rooms` fails.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_socketserver-benches"));
    // A directory without programs.
    command.env("PATH", env!("CARGO_TARGET_TMPDIR"));
    command.args(arguments).output().unwrap()
}

#[test]
fn without_redis_server_the_error_names_its_package() {
    let output = run(&["--rooms", "--quick"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert_eq!(stderr, "error: there is no redis-server; Debian's package redis-server has it\n");
}

#[test]
fn flags_that_select_cases_servers_or_charts_are_rejected() {
    for flag in [&["--case", "room"][..], &["--server", "tokio"], &["--charts", "."], &["--curves"]]
    {
        let output = run(&[&["--rooms"], flag].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains("--rooms goes with"), "{stderr}");
    }
}
