//! The results, as they are stored in a JSON file: all data of the tables and charts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::cases::{Case, Load, Service};
use crate::load::Figures;
use crate::peers::{CPYTHON, LOCAL, STD_THREADS, TOKIO};

#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) command_line: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) cases: Vec<CaseResults>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    rustc: String,
    python: String,
    date: String,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct CaseResults {
    #[serde(flatten)]
    pub(crate) case: Case,
    pub(crate) runs: Vec<Run>,
}

/// One server in one round: its figures, or why it failed.
#[derive(Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) server: String,
    pub(crate) round: usize,
    pub(crate) figures: Option<Figures>,
    pub(crate) failure: Option<String>,
}

/// All rounds of a server: a row of a table.
pub(crate) struct Summary<'a> {
    pub(crate) server: &'a str,
    /// The median of the main figure; `None` if every round failed.
    pub(crate) median: Option<f64>,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The median divided by that of [`CaseResults::base`].
    pub(crate) ratio: Option<f64>,
    pub(crate) p50_us: Option<f64>,
    pub(crate) p99_us: Option<f64>,
    pub(crate) server_cpu_us: Option<f64>,
    pub(crate) broker_cpu_us: Option<f64>,
    pub(crate) load_cpu_us: Option<f64>,
    pub(crate) lost: u64,
    pub(crate) failures: Vec<&'a str>,
}

impl Results {
    pub(crate) fn read(path: &Path) -> Result<Results, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string());
        text.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string());
        text.and_then(|text| fs::write(path, text + "\n").map_err(|error| error.to_string()))
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    pub(crate) fn failures(&self) -> usize {
        let runs = self.cases.iter().flat_map(|case| &case.runs);
        runs.filter(|run| run.failure.is_some()).count()
    }
}

impl CaseResults {
    /// The server that the others are compared with.
    pub(crate) fn base(&self) -> &'static str {
        match self.case {
            Case { service: Service::ForkingHello, .. } => CPYTHON,
            Case { load: Load::Room { .. }, .. } => LOCAL,
            Case { workers: Some(_), .. } => TOKIO,
            _ => STD_THREADS,
        }
    }

    /// A summary for each server, in the order in which they first ran.
    pub(crate) fn summaries(&self) -> Vec<Summary<'_>> {
        let mut servers: Vec<&str> = Vec::new();
        for run in &self.runs {
            if !servers.contains(&run.server.as_str()) {
                servers.push(&run.server);
            }
        }
        let base = self.summary(self.base(), None).median;
        servers.into_iter().map(|server| self.summary(server, base)).collect()
    }

    fn summary<'a>(&'a self, server: &'a str, base: Option<f64>) -> Summary<'a> {
        let runs = || self.runs.iter().filter(|run| run.server == server);
        let figures: Vec<&Figures> = runs().filter_map(|run| run.figures.as_ref()).collect();
        let all = |field: fn(&Figures) -> Option<f64>| {
            let mut values: Vec<f64> =
                figures.iter().filter_map(|&figures| field(figures)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let values = all(|figures| Some(figures.value));
        let median = median(&values);
        Summary {
            server,
            median,
            min: values.first().copied().unwrap_or_default(),
            max: values.last().copied().unwrap_or_default(),
            ratio: median.zip(base).map(|(median, base)| median / base),
            p50_us: self::median(&all(|figures| figures.p50_us)),
            p99_us: self::median(&all(|figures| figures.p99_us)),
            server_cpu_us: self::median(&all(|figures| figures.server_cpu_us)),
            broker_cpu_us: self::median(&all(|figures| figures.broker_cpu_us)),
            load_cpu_us: self::median(&all(|figures| figures.load_cpu_us)),
            lost: figures.iter().map(|figures| figures.lost).sum(),
            failures: runs().filter_map(|run| run.failure.as_deref()).collect(),
        }
    }
}

impl Machine {
    pub(crate) fn this() -> Machine {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find(|line| line.starts_with("model name"));
        Machine {
            cpu: cpu.and_then(|line| line.split_once(": ")).map_or("unknown", |cpu| cpu.1).into(),
            cores: available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            rustc: output_of("rustc", "--version"),
            python: output_of("python3", "--version"),
            date: output_of("date", "--iso-8601=seconds"),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Machine { cpu, cores, kernel, rustc, python, date } = self;
        write!(f, "{cpu}, {cores} cores, Linux {kernel}, {rustc}, {python}, {date}")
    }
}

/// The median of sorted values.
fn median(values: &[f64]) -> Option<f64> {
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

fn output_of(program: &str, argument: &str) -> String {
    let output = Command::new(program).arg(argument).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| format!("no {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::cases;
    use crate::peers::SOCKETSERVER;

    fn run(server: &str, value: f64) -> Run {
        let figures = Some(Figures { value, ..Figures::default() });
        Run { server: server.to_owned(), round: 0, figures, failure: None }
    }

    #[test]
    fn a_summary_compares_medians() {
        let case = cases().into_iter().find(|case| case.name == "echo-64").unwrap();
        let mut runs: Vec<Run> =
            [9.0, 4.0, 8.0].into_iter().map(|value| run(SOCKETSERVER, value)).collect();
        runs.extend([1.0, 2.0, 3.0, 40.0].map(|value| run(STD_THREADS, value)));
        let failure = Some("a byte is missing".to_owned());
        runs.push(Run { server: TOKIO.to_owned(), round: 0, figures: None, failure });

        let results = CaseResults { case, runs };
        let [ours, std, tokio] = &results.summaries()[..] else { panic!() };
        assert_eq!((ours.median, ours.min, ours.max), (Some(8.0), 4.0, 9.0));
        assert_eq!((ours.ratio, std.median, std.ratio), (Some(3.2), Some(2.5), Some(1.0)));
        assert_eq!((tokio.median, &tokio.failures[..]), (None, &["a byte is missing"][..]));
    }

    #[test]
    fn results_read_back_are_equal() {
        let case = cases().remove(0);
        let cases = vec![CaseResults { case, runs: vec![run(TOKIO, 1.5)] }];
        let command_line = vec!["--quick".to_owned()];
        let machine = Machine::this();
        let results = Results { machine, command_line, rounds: 1, seconds: 0.5, cases };
        let text = serde_json::to_value(&results).unwrap();
        let read: Results = serde_json::from_value(text.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), text);
    }
}
