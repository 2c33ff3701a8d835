//! The rounds: each case, each round, each server, so that whatever disturbs the machine disturbs
//! all of them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::slice;
use std::time::Duration;

use crate::cases::Case;
use crate::load::{self, Outcome};
use crate::peers;
use crate::report::figure;
use crate::results::{CaseResults, Run};
use crate::server::Server;

pub(crate) struct Measuring {
    pub(crate) servers: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) measured: Duration,
    /// Where the library's examples are.
    pub(crate) examples: PathBuf,
}

impl Measuring {
    /// Measures a case, saying on standard error how it goes.
    pub(crate) fn run(&self, case: Case, which: &str) -> CaseResults {
        let commands: Vec<(&str, Command)> = self
            .servers
            .iter()
            .filter_map(|server| {
                Some((server.as_str(), peers::command(server, &case, &self.examples)?))
            })
            .collect();
        in_rounds(self.rounds, case, which, &commands, |case, command| self.run_once(case, command))
    }

    fn run_once(&self, case: &Case, command: &Command) -> Outcome {
        let mut server = Server::start(command)?;
        let outcome = load::spawn(&case.load, slice::from_ref(&server), None, self.measured);
        match (server.is_running(), &case.load) {
            (Err(error), load) if outcome.is_ok() && !load.ends_the_server() => Err(error),
            _ => outcome,
        }
    }
}

/// Runs a case once in each round with each server, which are given by name.
pub(crate) fn in_rounds<T>(
    rounds: usize,
    case: Case,
    which: &str,
    servers: &[(&str, T)],
    run_once: impl Fn(&Case, &T) -> Outcome,
) -> CaseResults {
    eprintln!("{which} {}: {}", case.name, case.about);
    let mut runs = Vec::new();
    for round in 0..rounds {
        for turn in 0..servers.len() {
            // Another one is the first in each round.
            let (name, server) = &servers[(turn + round) % servers.len()];
            eprint!("  round {} of {rounds}, {name:<12} ", round + 1);
            let (figures, failure) = match run_once(&case, server) {
                Ok(figures) => {
                    eprintln!("{:>20}", figure(case.load.measure(), figures.value));
                    (Some(figures), None)
                }
                Err(error) => {
                    eprintln!("FAILED: {error}");
                    (None, Some(error))
                }
            };
            runs.push(Run { server: (*name).to_owned(), round, figures, failure });
        }
    }
    // In the table, they stand as they were named.
    runs.sort_by_key(|run| servers.iter().position(|(name, _)| *name == run.server));
    CaseResults { case, runs }
}

/// Builds some examples of some packages, and returns their directory.
pub(crate) fn build_examples(packages: &[&str], names: &[&str]) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    command.args(["build", "--release", "--message-format=json-render-diagnostics"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    command.args(names.iter().flat_map(|name| ["--example", name]));
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("the examples cannot be built: {}", output.status));
    }
    let mut examples = output.stdout.split(|&byte| byte == b'\n').filter_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        let is_example = message["target"]["kind"][0] == "example";
        message["executable"].as_str().filter(|_| is_example).map(PathBuf::from)
    });
    examples
        .next()
        .and_then(|example| example.parent().map(Path::to_owned))
        .ok_or_else(|| "cargo does not say where the examples are".to_owned())
}
