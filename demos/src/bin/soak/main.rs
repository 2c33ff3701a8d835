//! Everything at once, for as long as one likes: servers on all transports under mixed load,
//! clients of the worst manners among good ones, limits that change, and servers that are stopped
//! and started anew meanwhile. Whatever was promised an answer must get it, and nothing may be
//! left.
//!
//! ```sh
//! cargo run --release -p socketserver-demos --bin soak -- --minutes 1
//! ```
//!
//! Each second it prints how far it is, at the end a table. The exit status is 1, with the reason,
//! when an answer was lost, something leaked, or somebody was stuck. `--seed N` makes each client
//! do what it did when that seed was printed, as far as the system plays along.

mod chat;
mod datagrams;
mod faults;
mod forking;
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
use tally::{Fate, Resources};
use target::Target;

const USAGE: &str = "\
usage: soak [--minutes N] [--seed N]

  --minutes N  how long; a fraction is allowed [default: 1]
  --seed N     for the same random choices as another time
  -h, --help   this text
";

/// How long anything may take that should come soon, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all threads share.
struct Soak {
    targets: Vec<Target>,
    over: Arc<AtomicBool>,
}

impl Soak {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }
}

fn main() -> ExitCode {
    // What handlers do on command needs no log.
    let quiet = env_logger::Env::default().default_filter_or("warn,socketserver::handler=off");
    env_logger::init_from_env(quiet);
    let complain = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&servers::ON_COMMAND) {
            complain(panic);
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

/// Whether all was well.
fn run() -> Result<bool, HandlerError> {
    let (mut minutes, mut seed) = (1.0, fastrand::u64(..));
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("minutes") => minutes = parser.value()?.parse()?,
            Long("seed") => seed = parser.value()?.parse()?,
            Long(forking::FLAG) => {
                return forking::serve(&parser.value()?.string()?).map(|()| true);
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
    soak(time, over, &mut Rng::with_seed(seed))
}

fn soak(time: Duration, over: Arc<AtomicBool>, random: &mut Rng) -> Result<bool, HandlerError> {
    let before = Resources::now();
    let dropped_before = tally::dropped_by_kernel();
    let folder = std::env::temp_dir().join(format!("socketserver-soak-{}", std::process::id()));
    std::fs::create_dir(&folder)?;

    let targets = KINDS.iter().map(|kind| Target::start(*kind, &folder));
    let soak = Soak { targets: targets.collect::<Result<_, _>>()?, over };
    thread::scope(|scope| {
        let crew = crew(scope, &soak, random);
        watch(&soak, time);
        dismiss(crew);
    });
    for target in &soak.targets {
        target.stop();
    }
    if let Err(error) = std::fs::remove_dir(&folder) {
        tally::complain(format!("a socket file is left in {}: {error}", folder.display()));
    }
    let after = settled(before);
    if after != before {
        tally::complain(format!("something leaks: {before:?}, and after it all {after:?}"));
    }
    let dropped = tally::dropped_by_kernel() - dropped_before;
    for target in &soak.targets {
        let lost = target.count.of(Fate::Lost);
        if lost > if target.kind.scheme == Scheme::Udp { dropped } else { 0 } {
            target.complain(format!("{lost} lost"));
        }
    }
    print_table(&soak.targets);
    println!("threads: {} before, {} after", before.threads, after.threads);
    println!("descriptors: {} before, {} after", before.descriptors, after.descriptors);
    println!("UDP datagrams dropped by the kernel: {dropped}");
    println!("peak memory: {} MiB", tally::peak_memory());
    tally::print();
    Ok(tally::all_is_well())
}

/// What the process holds once threads that were joined are gone for the system too.
fn settled(expected: Resources) -> Resources {
    let give_up = Instant::now() + PATIENCE;
    while Resources::now() != expected && Instant::now() < give_up {
        thread::sleep(Duration::from_millis(1));
    }
    Resources::now()
}

type Thread<'scope> = ScopedJoinHandle<'scope, ()>;

/// Starts the clients, and whoever disturbs the servers.
fn crew<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    soak: &'env Soak,
    random: &mut Rng,
) -> Vec<Thread<'scope>> {
    let mut start = |name: &str, work: fn(&Soak, &Target, &mut Rng), target: &'env Target| {
        let mut random = random.fork();
        let work = move || work(soak, target, &mut random);
        Builder::new().name(name.to_owned()).spawn_scoped(scope, work).expect("a thread")
    };
    let mut crew = Vec::new();
    for target in &soak.targets {
        let (work, threads): (fn(&Soak, &Target, &mut Rng), _) = match target.kind.service {
            // Parties that wait for each other's places would wait for ever.
            Service::Chat => (chat::run, 1),
            _ if target.kind.is_stream() => (streams::run, 3),
            _ => (datagrams::run, 2),
        };
        crew.extend((0..threads).map(|_| start(target.kind.name, work, target)));
    }
    let any = &soak.targets[0];
    crew.extend((0..20).map(|_| start("faults", |soak, _, random| faults::run(soak, random), any)));
    crew.push(start("disturb", |soak, _, random| target::disturb(soak, random), any));
    crew
}

/// Prints each second how far it is, until it is over.
fn watch(soak: &Soak, time: Duration) {
    let begun = Instant::now();
    let (mut second, mut answered) = (0, 0);
    while !soak.is_over() {
        second += 1;
        let until = time.min(Duration::from_secs(second));
        while begun.elapsed() < until && !soak.is_over() {
            let left = until.saturating_sub(begun.elapsed());
            thread::sleep(left.min(Duration::from_millis(50)));
        }
        let all = |fate| soak.targets.iter().map(|target| target.count.of(fate)).sum::<u64>();
        let now = Resources::now();
        println!(
            "{second:4} s: {:6} answered, {} refused, {} lost; {} faults; \
             {} threads, {} descriptors",
            all(Fate::Answered) - answered,
            all(Fate::Refused),
            all(Fate::Lost),
            tally::total("faults"),
            now.threads,
            now.descriptors,
        );
        answered = all(Fate::Answered);
        if begun.elapsed() >= time {
            soak.over.store(true, Relaxed);
        }
    }
}

/// Waits for all threads, but not for ever.
fn dismiss(crew: Vec<Thread<'_>>) {
    let give_up = Instant::now() + 3 * PATIENCE;
    for thread in crew {
        let name = thread.thread().name().unwrap_or_default().to_owned();
        while !thread.is_finished() {
            if Instant::now() > give_up {
                eprintln!("soak: FAILED: stuck: a client of {name:?}");
                std::process::exit(1);
            }
            thread::sleep(Duration::from_millis(5));
        }
        if thread.join().is_err() {
            tally::complain(format!("a client of {name:?} panicked"));
        }
    }
}

fn print_table(targets: &[Target]) {
    print!("\n{:<24}{:>10}{:>10}", "", "sent", "answered");
    println!("{:>9}{:>9}{:>6}", "refused", "excused", "lost");
    for target in targets {
        let of = |fate| target.count.of(fate);
        print!("{:<24}{:>10}{:>10}", target.kind.name, target.count.sent(), of(Fate::Answered));
        println!("{:>9}{:>9}{:>6}", of(Fate::Refused), of(Fate::Excused), of(Fate::Lost));
    }
}
