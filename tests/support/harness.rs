//! The `main` of test programs that have one of their own: an explicit list of tests, each with the
//! programs that it needs. A test whose programs are not all on the `PATH` is ignored and counted,
//! or fails when `SOCKETSERVER_TEST_CLIENTS` is `required`. This module uses no other support module,
//! so other packages can include it by its path.
#![allow(dead_code, reason = "a program uses one of `run` and `run_one_at_a_time`")]

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// How long one test may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(60);

/// A test, as [`tests!`] lists it.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    /// With the path of its module, the crate included.
    pub(crate) path: &'static str,
    pub(crate) programs: &'static [&'static str],
    pub(crate) run: fn(),
}

/// A `&'static [Test]` of functions of the current module, each with the programs that it needs, if
/// any: `tests![stops_at_sigterm, answers_a_browser: ["chromium"]]`. [`Test`] has to be in scope.
macro_rules! tests {
    ($($name:ident $(: [$($program:literal),+])?),* $(,)?) => {
        &[$(Test {
            path: concat!(module_path!(), "::", stringify!($name)),
            programs: &[$($($program),+)?],
            run: $name,
        }),*]
    };
}
pub(crate) use tests;

/// Runs the tests that the arguments of this program select.
pub(crate) fn run(tests: &[Test]) -> ExitCode {
    run_with(&Arguments::from_args(), tests)
}

/// The same, one test after the other.
pub(crate) fn run_one_at_a_time(tests: &[Test]) -> ExitCode {
    run_with(&Arguments { test_threads: Some(1), ..Arguments::from_args() }, tests)
}

fn run_with(arguments: &Arguments, tests: &[Test]) -> ExitCode {
    let are_required = std::env::var("SOCKETSERVER_TEST_CLIENTS").is_ok_and(|v| v == "required");
    let mut is_installed = HashMap::new();
    let left_out = Arc::new(Mutex::new(BTreeMap::<String, usize>::new()));
    let trials = tests.iter().map(|test| {
        let Test { path, programs, run } = *test;
        let (_, name) = path.split_once("::").unwrap();
        let mut missing = programs.to_vec();
        missing.retain(|program| !*is_installed.entry(*program).or_insert_with(|| find(program)));
        let missing = missing.join(" and ");
        let left_out = left_out.clone();
        Trial::ignorable_test(name, move || {
            if missing.is_empty() {
                run_in_time(name, run);
                return Ok(Completion::Completed);
            }
            if are_required {
                return Err(Failed::from(format!("needs {missing}")));
            }
            *left_out.lock().unwrap().entry(missing.clone()).or_default() += 1;
            Ok(Completion::ignored_with(format!("needs {missing}")))
        })
    });
    let conclusion = libtest_mimic::run(arguments, trials.collect());
    let left_out = left_out.lock().unwrap();
    if !left_out.is_empty() {
        let counts = left_out.iter().enumerate().map(|(i, (programs, count))| {
            let tests = match (i, count) {
                (0, 1) => " test",
                (0, _) => " tests",
                _ => "",
            };
            format!("{count}{tests} for want of {programs}")
        });
        println!("left out: {}\n", counts.collect::<Vec<_>>().join(", "));
    }
    conclusion.exit_code()
}

/// Runs a test on a thread of its name, which a panic shows. A test that takes too long ends the
/// program.
fn run_in_time(name: &str, test: fn()) {
    let (sender, ended) = channel::<()>();
    let thread_name = name.rsplit("::").next().unwrap_or(name).to_owned();
    let thread = thread::Builder::new().name(thread_name).spawn(move || {
        let _sender = sender;
        test();
    });
    if ended.recv_timeout(TEST_TIMEOUT) == Err(RecvTimeoutError::Timeout) {
        eprintln!("test {name} has not ended after {TEST_TIMEOUT:?}");
        std::process::exit(101);
    }
    thread.unwrap().join().unwrap_or_else(|panic| resume_unwind(panic));
}

/// An absolute path is that of a file which has to exist, such as `/etc/services`.
fn find(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there =
        std::env::split_paths(&path).any(|directory| is_program(&directory.join(program)));
    is_there && (program != "nc" || is_openbsd_netcat())
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// netcat-traditional is called `nc` too. It lacks `-N` (half-close) and `-U` (Unix sockets).
fn is_openbsd_netcat() -> bool {
    let help = Command::new("nc").arg("-h").output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stderr).contains("OpenBSD"))
}
