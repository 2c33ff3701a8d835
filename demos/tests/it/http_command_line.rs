//! The command line of `http_files`, and how it stops.

use rustix::process::Signal;

use crate::demos::demo;
use crate::support::clients::{rest_of, unix};
use crate::support::process::{Server, run};
use crate::support::{TempDir, abstract_name};

fn start(listen: &str, flags: &[&str]) -> Server {
    let mut command = demo("http_files");
    command.args(["--listen", listen]).args(flags);
    Server::spawn(command)
}

#[test]
fn help_says_what_flags_there_are() {
    let mut command = demo("http_files");
    command.arg("--help");
    let ended = run(command, "");
    assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""));
    for word in [
        "--listen",
        "--mixin",
        "--stop-timeout",
        "--help",
        "sequential",
        "forking",
        "127.0.0.1:8000",
    ] {
        assert!(ended.text().contains(word), "{word}: {}", ended.text());
    }
    assert!(!ended.text().contains("--greeting"));
}

/// Asserts one line on standard error, which names the program, and nothing on standard output.
#[track_caller]
fn is_told(arguments: &[&str], status: i32, words: &[&str]) {
    let mut command = demo("http_files");
    command.args(arguments);
    let ended = run(command, "");
    assert_eq!((ended.status, ended.text()), (Some(status), ""), "{ended:?}");
    let line = ended.stderr.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n') && line.starts_with("http_files: "), "{line}");
    for word in words {
        assert!(line.contains(word), "{line:?} does not say {word:?}");
    }
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    is_told(&["--nonsense"], 2, &["--nonsense"]);
    is_told(&["nonsense"], 2, &["nonsense"]);
    let mixins = "sequential, threading, forking, prefork or fibers";
    is_told(&["--mixin", "quick"], 2, &["quick", mixins]);
    is_told(&["--mixin"], 2, &["--mixin"]);
    is_told(&["--listen"], 2, &["--listen"]);
    is_told(&["--stop-timeout", "soon"], 2, &["soon"]);
    is_told(&["--stop-timeout=-1"], 2, &["-1"]);
    is_told(&["--listen", "two\nlines"], 2, &[r"two\nlines"]);
    for (flag, value) in [
        ("--head-timeout", "0"),
        ("--head-timeout", "soon"),
        ("--idle-timeout", "-1"),
        ("--min-rate", "fast"),
        ("--linger-timeout", "0"),
        ("--linger-bytes", "many"),
    ] {
        is_told(&["--listen", "127.0.0.1:0", flag, value], 2, &[value]);
    }
}

#[test]
fn a_root_that_is_missing_is_one_line_and_status_1() {
    let folder = TempDir::new();
    let nowhere = folder.join("nowhere").display().to_string();
    is_told(&["--listen", "127.0.0.1:0", "--root", &nowhere], 1, &[&nowhere]);
}

#[test]
fn an_address_in_use_is_one_line_that_names_it() {
    let server = start("127.0.0.1:0", &[]);
    // `--listen` accepts the form that is printed.
    let address = server.address().to_owned();
    assert!(address.starts_with("127.0.0.1:") && !address.ends_with(":0"), "{address}");
    is_told(&["--listen", &address], 1, &["cannot listen on", &address, "in use"]);
    assert_eq!(server.stop().text(), "");
}

#[test]
fn both_signals_end_it_although_clients_are_silent() {
    for (mixin, signal) in [("sequential", Signal::INT), ("threading", Signal::TERM)] {
        let server = start(&format!("unix:{}", abstract_name()), &["--mixin", mixin]);
        let clients = [unix(server.endpoint()), unix(server.endpoint())];
        server.stop_by(signal);
        for client in clients {
            rest_of(client);
        }
    }
}
