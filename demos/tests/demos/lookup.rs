//! Questions to the example `lookup`, and to CPython's `socket`.

use std::process::Command;

use crate::demos::demo;
use crate::process::{Ended, run};

/// A resolver that does ask a server, for this machine's own name, say, is not waited for long.
const RESOLVER: (&str, &str) = ("RES_OPTIONS", "timeout:1 attempts:1");

#[track_caller]
fn lookup(words: &[&str]) -> Ended {
    let mut command = demo("lookup");
    command.args(words).env(RESOLVER.0, RESOLVER.1);
    run(command, "")
}

/// The answer, which there has to be.
#[track_caller]
pub(crate) fn answer(words: &[&str]) -> String {
    let ended = lookup(words);
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{words:?}");
    let text = ended.text().strip_suffix('\n').expect("a line has its end");
    text.to_owned()
}

/// No answer: one line on standard error, and this status.
#[track_caller]
pub(crate) fn complaint(words: &[&str], status: i32) -> String {
    let ended = lookup(words);
    assert_eq!((ended.status, ended.text()), (Some(status), ""), "{words:?}: {}", ended.stderr);
    let line = ended.stderr.strip_suffix('\n').expect("a line has its end");
    assert!(line.starts_with("lookup: ") && !line.contains('\n'), "{words:?}: {line}");
    line.to_owned()
}

/// What a script prints, as lines of fields between tabs.
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
