//! The time that counts: after a warm-up, until enough has been seen.

use std::time::{Duration, Instant};

use super::latencies::Latencies;
use super::{Figures, Target};
use crate::process::cpu_time;

/// What is not counted yet, as a part of what is.
const WARM_UP: f64 = 0.2;

pub(crate) struct Window {
    /// The processes whose time is read: of the servers, and of what is between them.
    servers: Vec<u32>,
    broker: Option<u32>,
    measured: Duration,
    phase: Phase,
    operations: u64,
    latencies: Latencies,
}

enum Phase {
    WarmingUp { until: Instant },
    Measuring(Readings),
    Over(Taken),
}

/// The processor's time and the clock's, at a moment.
struct Readings {
    at: Instant,
    server_cpu: Duration,
    broker_cpu: Duration,
    load_cpu: Duration,
}

/// The same, between two of them.
#[derive(Clone, Copy)]
struct Taken {
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

    fn since(&self, start: &Readings) -> Taken {
        Taken {
            time: self.at - start.at,
            server_cpu: self.server_cpu - start.server_cpu,
            broker_cpu: self.broker_cpu - start.broker_cpu,
            load_cpu: self.load_cpu - start.load_cpu,
        }
    }
}

impl Window {
    /// Begins with the warm-up.
    pub(crate) fn open(target: Target) -> Window {
        Window::open_for(&[target], None, target.measured)
    }

    /// The same for servers that do something together, by way of a broker.
    pub(crate) fn open_for(servers: &[Target], broker: Option<u32>, measured: Duration) -> Window {
        let servers = servers.iter().map(|target| target.server).collect();
        let phase = Phase::WarmingUp { until: Instant::now() + measured.mul_f64(WARM_UP) };
        Window { servers, broker, measured, phase, operations: 0, latencies: Latencies::new() }
    }

    /// Sees what time it is; to be called often. Returns whether to go on sending.
    pub(crate) fn is_open(&mut self) -> Result<bool, String> {
        match &self.phase {
            Phase::WarmingUp { until } => {
                if Instant::now() >= *until {
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

    /// How long to wait for something to happen before seeing what time it is.
    pub(crate) fn patience(&self) -> Duration {
        match self.phase {
            Phase::Over(_) => super::PATIENCE,
            _ => Duration::from_millis(10),
        }
    }

    /// An operation is done.
    pub(crate) fn count(&mut self, begun: Instant, ended: Instant) {
        if let Phase::Measuring(_) = self.phase {
            self.operations += 1;
            self.latencies.add(ended.saturating_duration_since(begun));
        }
    }

    /// The same time of other clients, who began together with these: what was done by all.
    pub(crate) fn with(mut self, others: &Window) -> Window {
        self.operations += others.operations;
        self.latencies.extend(&others.latencies);
        self
    }

    /// The rate, and what each operation took.
    pub(crate) fn figures(&self) -> Result<Figures, String> {
        let Phase::Over(taken) = self.phase else {
            return Err("the measured time is not over".to_owned());
        };
        if self.operations == 0 {
            return Err(format!("nothing was done in {:.1?}", taken.time));
        }
        let for_each = |time: Duration| Some(time.as_secs_f64() * 1e6 / self.operations as f64);
        Ok(Figures {
            value: self.operations as f64 / taken.time.as_secs_f64(),
            operations: self.operations,
            seconds: taken.time.as_secs_f64(),
            p50_us: self.latencies.quantile(0.5),
            p99_us: self.latencies.quantile(0.99),
            server_cpu_us: for_each(taken.server_cpu),
            broker_cpu_us: self.broker.and_then(|_| for_each(taken.broker_cpu)),
            load_cpu_us: for_each(taken.load_cpu),
            lost: 0,
        })
    }
}
