//! The rounds: each round runs every server once, so that a disturbance of the machine affects all
//! of them.

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

/// Several servers under the same cases.
pub(crate) struct Comparison {
    pub(crate) servers: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) measured: Duration,
    /// The directory of the library's built examples.
    pub(crate) examples: PathBuf,
}

impl Comparison {
    /// Measures a case, with its progress on standard error.
    pub(crate) fn run(&self, case: Case, label: &str) -> CaseResults {
        let commands: Vec<(&str, Command)> = self
            .servers
            .iter()
            .filter_map(|server| {
                Some((server.as_str(), peers::command(server, &case, &self.examples)?))
            })
            .collect();
        in_rounds(self.rounds, case, label, &commands, |case, command| self.run_once(case, command))
    }

    fn run_once(&self, case: &Case, command: &Command) -> Outcome {
        let mut server = Server::start(command)?;
        let outcome = load::spawn(&case.load, slice::from_ref(&server), None, self.measured);
        match (server.check_running(), &case.load) {
            (Err(error), load) if outcome.is_ok() && !load.ends_the_server() => Err(error),
            _ => outcome,
        }
    }
}

/// Runs a case once in each round with each of the named servers.
pub(crate) fn in_rounds<T>(
    rounds: usize,
    case: Case,
    label: &str,
    servers: &[(&str, T)],
    run_once: impl Fn(&Case, &T) -> Outcome,
) -> CaseResults {
    eprintln!("{label} {}: {}", case.name, case.about);
    let mut runs = Vec::new();
    for round in 0..rounds {
        for turn in 0..servers.len() {
            // Each round starts with another server.
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
    // Restores the given order, for the table.
    runs.sort_by_key(|run| servers.iter().position(|(name, _)| *name == run.server));
    CaseResults { case, runs }
}

/// Builds examples of the given packages and returns their directory.
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
        .ok_or_else(|| "cargo names no directory of the examples".to_owned())
}
