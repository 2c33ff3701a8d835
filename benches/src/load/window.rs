//! The measured time, after a warm-up.

use std::time::{Duration, Instant};

use super::latencies::Latencies;
use super::{Figures, Target};
use crate::process::cpu_time;

/// The length of the warm-up, relative to the measured time.
const WARM_UP: f64 = 0.2;

pub(crate) struct Window {
    /// The PIDs of the servers.
    servers: Vec<u32>,
    /// The PID of the Redis between them.
    broker: Option<u32>,
    measured: Duration,
    phase: Phase,
    operations: u64,
    latencies: Latencies,
}

enum Phase {
    WarmUp { end: Instant },
    Measuring(Readings),
    Over(Elapsed),
}

/// The clock and the processor times at one moment.
struct Readings {
    at: Instant,
    server_cpu: Duration,
    broker_cpu: Duration,
    load_cpu: Duration,
}

/// The difference of two readings.
#[derive(Clone, Copy)]
struct Elapsed {
    time: Duration,
    server_cpu: Duration,
    broker_cpu: Duration,
    load_cpu: Duration,
}

impl Readings {
    fn take(servers: &[u32], broker: Option<u32>) -> Result<Readings, String> {
        let server_cpu = servers.iter().map(|&server| cpu_time(server)).sum::<Result<_, _>>()?;
        let broker_cpu = broker.map_or(Ok(Duration::ZERO), cpu_time)?;
        let load_cpu = cpu_time(std::process::id())?;
        Ok(Readings { at: Instant::now(), server_cpu, broker_cpu, load_cpu })
    }

    fn since(&self, start: &Readings) -> Elapsed {
        Elapsed {
            time: self.at - start.at,
            server_cpu: self.server_cpu - start.server_cpu,
            broker_cpu: self.broker_cpu - start.broker_cpu,
            load_cpu: self.load_cpu - start.load_cpu,
        }
    }
}

impl Window {
    /// Starts the warm-up.
    pub(crate) fn open(target: Target) -> Window {
        Window::open_for(&[target], None, target.measured)
    }

    /// The same for several servers, with a Redis between them.
    pub(crate) fn open_for(servers: &[Target], broker: Option<u32>, measured: Duration) -> Window {
        let servers = servers.iter().map(|target| target.pid).collect();
        let phase = Phase::WarmUp { end: Instant::now() + measured.mul_f64(WARM_UP) };
        Window { servers, broker, measured, phase, operations: 0, latencies: Latencies::new() }
    }

    /// Whether to go on sending. It also changes the phase by the clock, so call it often.
    pub(crate) fn is_open(&mut self) -> Result<bool, String> {
        match &self.phase {
            Phase::WarmUp { end } => {
                if Instant::now() >= *end {
                    self.phase = Phase::Measuring(Readings::take(&self.servers, self.broker)?);
                }
                Ok(true)
            }
            Phase::Measuring(start) => {
                if start.at.elapsed() < self.measured {
                    return Ok(true);
                }
                let end = Readings::take(&self.servers, self.broker)?;
                self.phase = Phase::Over(end.since(start));
                Ok(false)
            }
            Phase::Over(_) => Ok(false),
        }
    }

    /// How long to wait for events before the next call of `is_open`.
    pub(crate) fn poll_timeout(&self) -> Duration {
        match self.phase {
            Phase::Over(_) => super::PROGRESS_TIMEOUT,
            _ => Duration::from_millis(10),
        }
    }

    /// Counts an operation, if it ends in the measured time.
    pub(crate) fn count(&mut self, start: Instant, end: Instant) {
        if let Phase::Measuring(_) = self.phase {
            self.operations += 1;
            self.latencies.add(end.saturating_duration_since(start));
        }
    }

    /// Adds the operations of the window of other clients that ran at the same time.
    pub(crate) fn merged(mut self, other: &Window) -> Window {
        self.operations += other.operations;
        self.latencies.merge(&other.latencies);
        self
    }

    /// The rate, the latencies, and the processor times of each operation.
    pub(crate) fn figures(&self) -> Result<Figures, String> {
        let Phase::Over(elapsed) = self.phase else {
            return Err("the measured time is not over".to_owned());
        };
        if self.operations == 0 {
            return Err(format!("nothing was done in {:.1?}", elapsed.time));
        }
        let per_operation =
            |time: Duration| Some(time.as_secs_f64() * 1e6 / self.operations as f64);
        Ok(Figures {
            value: self.operations as f64 / elapsed.time.as_secs_f64(),
            operations: self.operations,
            seconds: elapsed.time.as_secs_f64(),
            p50_us: self.latencies.quantile(0.5),
            p99_us: self.latencies.quantile(0.99),
            server_cpu_us: per_operation(elapsed.server_cpu),
            broker_cpu_us: self.broker.and_then(|_| per_operation(elapsed.broker_cpu)),
            load_cpu_us: per_operation(elapsed.load_cpu),
            lost: 0,
        })
    }
}
