//! The time that counts: after a warm-up, until enough has been seen.

use std::time::{Duration, Instant};

use super::latencies::Latencies;
use super::{Figures, Target};
use crate::process::cpu_time;

/// What is not counted yet, as a part of what is.
const WARM_UP: f64 = 0.2;

pub(crate) struct Window {
    target: Target,
    phase: Phase,
    operations: u64,
    latencies: Latencies,
}

enum Phase {
    WarmingUp { until: Instant },
    Measuring(Readings),
    Over { taken: Duration, server_cpu: Duration, load_cpu: Duration },
}

struct Readings {
    at: Instant,
    server_cpu: Duration,
    load_cpu: Duration,
}

impl Readings {
    fn take(server: u32) -> Result<Readings, String> {
        let (server_cpu, load_cpu) = (cpu_time(server)?, cpu_time(std::process::id())?);
        Ok(Readings { at: Instant::now(), server_cpu, load_cpu })
    }
}

impl Window {
    /// Begins with the warm-up.
    pub(crate) fn open(target: Target) -> Window {
        let until = Instant::now() + target.measured.mul_f64(WARM_UP);
        let phase = Phase::WarmingUp { until };
        Window { target, phase, operations: 0, latencies: Latencies::new() }
    }

    /// Sees what time it is; to be called often. Returns whether to go on sending.
    pub(crate) fn is_open(&mut self) -> Result<bool, String> {
        match &self.phase {
            Phase::WarmingUp { until } => {
                if Instant::now() >= *until {
                    self.phase = Phase::Measuring(Readings::take(self.target.server)?);
                }
                Ok(true)
            }
            Phase::Measuring(start) => {
                if start.at.elapsed() < self.target.measured {
                    return Ok(true);
                }
                let end = Readings::take(self.target.server)?;
                self.phase = Phase::Over {
                    taken: end.at - start.at,
                    server_cpu: end.server_cpu - start.server_cpu,
                    load_cpu: end.load_cpu - start.load_cpu,
                };
                Ok(false)
            }
            Phase::Over { .. } => Ok(false),
        }
    }

    /// How long to wait for something to happen before seeing what time it is.
    pub(crate) fn patience(&self) -> Duration {
        match self.phase {
            Phase::Over { .. } => super::PATIENCE,
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
        let Phase::Over { taken, server_cpu, load_cpu } = self.phase else {
            return Err("the measured time is not over".to_owned());
        };
        if self.operations == 0 {
            return Err(format!("nothing was done in {taken:.1?}"));
        }
        let for_each = |time: Duration| Some(time.as_secs_f64() * 1e6 / self.operations as f64);
        Ok(Figures {
            value: self.operations as f64 / taken.as_secs_f64(),
            operations: self.operations,
            seconds: taken.as_secs_f64(),
            p50_us: self.latencies.quantile(0.5),
            p99_us: self.latencies.quantile(0.99),
            server_cpu_us: for_each(server_cpu),
            load_cpu_us: for_each(load_cpu),
            lost: 0,
        })
    }
}
