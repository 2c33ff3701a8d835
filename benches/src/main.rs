//! Measures the library's examples beside the same servers on std threads, on tokio and on
//! CPython's `socketserver`. `README.md` says how to read the tables.

mod cases;
mod charts;
mod child;
mod load;
mod measure;
mod peers;
mod process;
mod redis;
mod report;
mod results;
mod rooms;
mod server;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use lexopt::prelude::*;

use cases::{Case, matches};
use measure::{Comparison, build_examples};
use results::{CaseResults, Machine, Results};

const HELP: &str = "\
cargo run --release -p socketserver-benches -- [OPTION]...

Measures socketserver, on threads and on fibers, beside std threads, tokio and CPython, and prints a
table for each case.
The exit status is 1 if a byte was lost, damaged, repeated or out of order.

With --rooms it measures one chat room instead, on one, two and three servers with a redis-server
between them.

  --case PATTERN    only these cases; * matches any text; may be given more than once
  --server NAME     only this server, likewise: socketserver, fibers, std-threads, tokio or cpython
  --rounds N        how many rounds; 5 by default
  --seconds S       how long each server is measured in a round; 2 by default
  --quick           one round of 0.2 seconds
  --rooms           only a chat room on several servers
  --curves          also the curves by number of connections, which take much longer
  --json FILE       write all results
  --charts DIR      draw charts, as SVG
  --from-json FILE  measure nothing: tables and charts of earlier results; several files are joined
  --list            the names of all cases
  --help";

struct Options {
    cases: Vec<String>,
    servers: Vec<String>,
    rounds: usize,
    seconds: f64,
    rooms: bool,
    curves: bool,
    list: bool,
    json: Option<PathBuf>,
    charts: Option<PathBuf>,
    from_json: Vec<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<ExitCode, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    // The child processes are this same program, with a role as the first argument.
    if let Some(role) = std::env::args().nth(1).filter(|role| !role.starts_with('-')) {
        parser.value()?;
        return match role.as_str() {
            "load" => load::main(parser),
            "peer" => peers::main(parser),
            "tied" => child::main(parser).map(|never| match never {}),
            _ => Err(format!("unknown role {role}; see --help").into()),
        };
    }
    let Some(options) = parse(parser)? else {
        println!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    };
    if options.list {
        for case in cases::cases().iter().chain(&cases::curves()) {
            println!("{:20} {}", case.name, case.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.rooms
        && let Err(missing) = redis::check_installed()
    {
        eprintln!("error: {missing}");
        return Ok(ExitCode::FAILURE);
    }
    let results =
        if options.from_json.is_empty() { measure(&options)? } else { read(&options.from_json)? };
    report::print(&results);
    if let Some(path) = &options.json {
        results.write(path)?;
    }
    if let Some(directory) = &options.charts {
        charts::draw(&results, directory)?;
    }
    Ok(match results.failures() {
        0 => ExitCode::SUCCESS,
        failures => {
            eprintln!("{failures} runs failed");
            ExitCode::FAILURE
        }
    })
}

/// `None` for `--help`.
fn parse(mut parser: lexopt::Parser) -> Result<Option<Options>, lexopt::Error> {
    let mut options = Options {
        cases: Vec::new(),
        servers: Vec::new(),
        rounds: 5,
        seconds: 2.0,
        rooms: false,
        curves: false,
        list: false,
        json: None,
        charts: None,
        from_json: Vec::new(),
    };
    while let Some(argument) = parser.next()? {
        match argument {
            Long("case") => options.cases.push(parser.value()?.string()?),
            Long("server") => options.servers.push(parser.value()?.string()?),
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("quick") => (options.rounds, options.seconds) = (1, 0.2),
            Long("rooms") => options.rooms = true,
            Long("curves") => options.curves = true,
            Long("list") => options.list = true,
            Long("json") => options.json = Some(parser.value()?.into()),
            Long("charts") => options.charts = Some(parser.value()?.into()),
            Long("from-json") => options.from_json.push(parser.value()?.into()),
            Long("help") | Short('h') => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    if options.rounds == 0 || !(0.01..=60.0).contains(&options.seconds) {
        return Err("at least one round, of 0.01 to 60 seconds".into());
    }
    let selects = !options.cases.is_empty() || !options.servers.is_empty() || options.curves;
    if options.rooms && (selects || options.charts.is_some() || !options.from_json.is_empty()) {
        return Err("--rooms goes with --rounds, --seconds, --quick and --json only".into());
    }
    let is_unknown = |server: &&String| !peers::SERVERS.contains(&server.as_str());
    match options.servers.iter().find(is_unknown) {
        Some(unknown) => Err(format!("{unknown} is none of {}", peers::SERVERS.join(", ")).into()),
        None => Ok(Some(options)),
    }
}

fn measure(options: &Options) -> Result<Results, String> {
    let measured = Duration::from_secs_f64(options.seconds);
    let cases = if options.rooms {
        rooms::measure(options.rounds, measured)?
    } else {
        compare(options, measured)?
    };
    Ok(Results {
        machine: Machine::this(),
        command_line: std::env::args().collect(),
        rounds: options.rounds,
        seconds: options.seconds,
        cases,
    })
}

/// Measures the selected cases on the selected servers.
fn compare(options: &Options, measured: Duration) -> Result<Vec<CaseResults>, String> {
    let cases = selected_cases(options)?;
    let servers = selected_servers(options);
    let examples = build_examples(&["socketserver"], &["hello", "echo", "chat"])?;
    let comparison = Comparison { servers, rounds: options.rounds, measured, examples };
    let count = cases.len();
    let numbered = cases.into_iter().enumerate();
    let results =
        numbered.map(|(number, case)| comparison.run(case, &format!("[{}/{count}]", number + 1)));
    Ok(results.collect())
}

/// The cases that the options select and the descriptor limit allows.
fn selected_cases(options: &Options) -> Result<Vec<Case>, String> {
    let limit = load::raise_descriptor_limit();
    let mut selected = cases::cases();
    if options.curves || !options.cases.is_empty() {
        selected.extend(cases::curves());
    }
    if !options.cases.is_empty() {
        selected.retain(|case| options.cases.iter().any(|pattern| matches(pattern, &case.name)));
    }
    if selected.is_empty() {
        return Err("no case matches; see --list".to_owned());
    }
    selected.retain(|case| {
        let fits = case.load.descriptors() <= limit;
        if !fits {
            eprintln!("{} is left out: only {limit} descriptors may be open", case.name);
        }
        fits
    });
    Ok(selected)
}

fn selected_servers(options: &Options) -> Vec<String> {
    let selected = |server: &&str| {
        options.servers.is_empty() || options.servers.iter().any(|name| name == server)
    };
    let installed = |server: &&str| {
        let installed = peers::is_installed(server);
        if !installed {
            eprintln!("{server} is left out: python3 is not installed");
        }
        installed
    };
    peers::SERVERS.into_iter().filter(selected).filter(installed).map(str::to_owned).collect()
}

fn read(files: &[PathBuf]) -> Result<Results, String> {
    let mut all = files.iter().map(|path| Results::read(path));
    let mut joined = all.next().ok_or("no file")??;
    for results in all {
        joined.cases.extend(results?.cases);
    }
    Ok(joined)
}
