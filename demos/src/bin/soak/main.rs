//! A soak test: servers on all transports under mixed load, with good and faulty clients, limits
//! that change, and servers that are stopped and started again meanwhile. Each request that a
//! server must answer has to be answered, and no thread or descriptor may leak.
//!
//! ```sh
//! cargo run --release -p socketserver-demos --bin soak -- --minutes 1
//! ```
//!
//! It prints its progress each second, and a table at the end. The exit status is 1, with the
//! reason, if an answer was lost, something leaked, or a client was stuck. `--seed N` repeats the
//! random choices of the run that has printed this seed; the timing may still differ.
//!
//! With `--freeze` each server runs in a process of its own, and such processes are stopped for a
//! while now and then (`SIGSTOP`): the clients, which go on, must get the same answers.

mod chat;
mod datagrams;
mod faults;

mod process;
mod servers;
mod streams;
mod tally;
mod target;

use std::panic;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, Builder, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use fastrand::Rng;
use lexopt::prelude::*;
use servers::{KINDS, Service};
use signal_hook::consts::{SIGINT, SIGTERM};
use socketserver::{HandlerError, Scheme};
use tally::{Outcome, Resources};
use target::Target;

const USAGE: &str = "\
usage: soak [--minutes N] [--seed N] [--freeze]

  --minutes N  how long; a fraction is allowed [default: 1]
  --seed N     for the same random choices as another time
  --freeze     stops the processes of servers for 0.1 to 2 s now and then
  -h, --help   this text
";

/// For everything that should take milliseconds. It is generous, for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The state that all threads share.
struct Soak {
    targets: Vec<Target>,
    over: Arc<AtomicBool>,
    freezes: bool,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

fn main() -> ExitCode {
    // Errors that handlers return on command are not logged.
    let quiet = env_logger::Env::default().default_filter_or("warn,socketserver::handler=off");
    env_logger::init_from_env(quiet);
    let default_hook = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&servers::ON_COMMAND) {
            default_hook(panic);
        }
    }));
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::from(if error.is::<lexopt::Error>() { 2 } else { 1 })
        }
    }
}

/// Whether there was no failure.
fn run() -> Result<bool, HandlerError> {
    let (mut minutes, mut seed, mut freezes) = (1.0, fastrand::u64(..), false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("minutes") => minutes = parser.value()?.parse()?,
            Long("seed") => seed = parser.value()?.parse()?,
            Long("freeze") => freezes = true,
            Long(process::FLAG) => {
                let (name, endpoint) = (parser.value()?.string()?, parser.value()?.string()?);
                return process::serve(&name, &endpoint).map(|()| true);
            }
            Long("help") | Short('h') => {
                print!("{USAGE}");
                return Ok(true);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let time = Duration::try_from_secs_f64(60.0 * minutes)
        .map_err(|_| lexopt::Error::from("--minutes is no time to wait"))?;
    println!("soak: {minutes} minutes with --seed {seed}");

    let over = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, over.clone())?;
    }
    soak(time, over, freezes, &mut Rng::with_seed(seed))
}

fn soak(
    time: Duration,
    over: Arc<AtomicBool>,
    freezes: bool,
    random: &mut Rng,
) -> Result<bool, HandlerError> {
    let before = Resources::now();
    let dropped_before = tally::dropped_by_kernel();
    let folder = std::env::temp_dir().join(format!("socketserver-soak-{}", std::process::id()));
    std::fs::create_dir(&folder)?;

    let targets = KINDS.iter().map(|kind| Target::start(*kind, &folder, freezes));
    let soak = Soak { targets: targets.collect::<Result<_, _>>()?, over, freezes };
    thread::scope(|scope| {
        let threads = start_threads(scope, &soak, random);
        report_progress(&soak, time);
        join(threads);
    });
    for target in &soak.targets {
        target.stop();
    }
    if let Err(error) = std::fs::remove_dir(&folder) {
        tally::record_failure(format!("a socket file is left in {}: {error}", folder.display()));
    }
    let after = settled(before);
    if after != before {
        tally::record_failure(format!("something leaks: {before:?}, and after it all {after:?}"));
    }
    let dropped = tally::dropped_by_kernel() - dropped_before;
    for target in &soak.targets {
        let lost = target.count.of(Outcome::Lost);
        if lost > if target.kind.scheme == Scheme::Udp { dropped } else { 0 } {
            target.record_failure(format!("{lost} lost"));
        }
    }
    print_table(&soak.targets);
    println!("threads: {} before, {} after", before.threads, after.threads);
    println!("descriptors: {} before, {} after", before.descriptors, after.descriptors);
    println!("UDP datagrams dropped by the kernel: {dropped}");
    println!("peak memory: {} MiB", tally::peak_memory());
    tally::print();
    Ok(tally::has_no_failures())
}

/// The resources of the process, once the kernel has removed the threads that were joined.
fn settled(expected: Resources) -> Resources {
    let deadline = Instant::now() + TIMEOUT;
    while Resources::now() != expected && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(1));
    }
    Resources::now()
}

type Thread<'scope> = ScopedJoinHandle<'scope, ()>;

/// Starts the clients, and the thread that disturbs the servers.
fn start_threads<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    soak: &'env Soak,
    random: &mut Rng,
) -> Vec<Thread<'scope>> {
    let mut start = |name: &str, work: fn(&Soak, &Target, &mut Rng), target: &'env Target| {
        let mut random = random.fork();
        let work = move || work(soak, target, &mut random);
        Builder::new().name(name.to_owned()).spawn_scoped(scope, work).expect("a thread")
    };
    let mut threads = Vec::new();
    for target in &soak.targets {
        let (work, count): (fn(&Soak, &Target, &mut Rng), _) = match target.kind.service {
            // Two groups could each hold connections that the other waits for.
            Service::Chat => (chat::run, 1),
            _ if target.kind.is_stream() => (streams::run, 3),
            _ => (datagrams::run, 2),
        };
        threads.extend((0..count).map(|_| start(target.kind.name, work, target)));
    }
    let any = &soak.targets[0];
    let faults = |soak: &Soak, _: &Target, random: &mut Rng| faults::run(soak, random);
    threads.extend((0..20).map(|_| start("faults", faults, any)));
    threads.push(start("disturb", |soak, _, random| target::disturb(soak, random), any));
    if soak.freezes {
        threads.push(start("freeze", |soak, _, random| target::freeze(soak, random), any));
    }
    threads
}

/// Prints the progress each second, until the end.
fn report_progress(soak: &Soak, time: Duration) {
    let begun = Instant::now();
    let (mut second, mut answered) = (0, 0);
    while !soak.is_over() {
        second += 1;
        let until = time.min(Duration::from_secs(second));
        while begun.elapsed() < until && !soak.is_over() {
            let left = until.saturating_sub(begun.elapsed());
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        let all = |outcome| soak.targets.iter().map(|target| target.count.of(outcome)).sum::<u64>();
        let now = Resources::now();
        println!(
            "{second:4} s: {:6} answered, {} refused, {} lost; {} faults; \
             {} threads, {} descriptors",
            all(Outcome::Answered) - answered,
            all(Outcome::Refused),
            all(Outcome::Lost),
            tally::total("faults"),
            now.threads,
            now.descriptors,
        );
        answered = all(Outcome::Answered);
        if begun.elapsed() >= time {
            soak.over.store(true, Relaxed);
        }
    }
}

/// Joins all threads; ends the process if one is stuck.
fn join(threads: Vec<Thread<'_>>) {
    let deadline = Instant::now() + 3 * TIMEOUT;
    for thread in threads {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        while !thread.is_finished() {
            if Instant::now() > deadline {
                eprintln!("soak: FAILED: stuck: a client of {name:?}");
                std::process::exit(1);
            }
            thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tally::record_failure(format!("a client of {name:?} panicked"));
        }
    }
}

fn print_table(targets: &[Target]) {
    print!("\n{:<24}{:>10}{:>10}", "", "sent", "answered");
    println!("{:>9}{:>9}{:>6}", "refused", "excused", "lost");
    for target in targets {
        let of = |outcome| target.count.of(outcome);
        print!("{:<24}{:>10}{:>10}", target.kind.name, target.count.sent(), of(Outcome::Answered));
        println!("{:>9}{:>9}{:>6}", of(Outcome::Refused), of(Outcome::Excused), of(Outcome::Lost));
    }
}
