//! Questions to `lookup`.

use crate::demos::demo;
use crate::support::process::{Ended, run};

/// Limits the wait for a name server, which the resolver may ask for the machine's own name.
pub(crate) const RESOLVER: (&str, &str) = ("RES_OPTIONS", "timeout:1 attempts:1");

#[track_caller]
fn lookup(words: &[&str]) -> Ended {
    let mut command = demo("lookup");
    command.args(words).env(RESOLVER.0, RESOLVER.1);
    run(command, "")
}

/// The answer to a question that has one.
#[track_caller]
pub(crate) fn answer(words: &[&str]) -> String {
    let ended = lookup(words);
    assert_eq!((ended.status, &*ended.stderr), (Some(0), ""), "{words:?}");
    let text = ended.text().strip_suffix('\n').expect("a line has its end");
    text.to_owned()
}

/// The error for a question: one line on standard error, and this exit status.
#[track_caller]
pub(crate) fn complaint(words: &[&str], status: i32) -> String {
    let ended = lookup(words);
    assert_eq!((ended.status, ended.text()), (Some(status), ""), "{words:?}: {}", ended.stderr);
    let line = ended.stderr.strip_suffix('\n').expect("a line has its end");
    assert!(line.starts_with("lookup: ") && !line.contains('\n'), "{words:?}: {line}");
    line.to_owned()
}
