//! Many seeds on several threads. A run has one thread; runs share nothing.

use super::{Failure, Report, run};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

/// What came of many seeds.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Seeds that kept the invariants.
    pub kept: u64,
    /// Those that did not, by seed.
    pub failures: BTreeMap<u64, Box<Failure>>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What happened, and how often.
    pub happened: BTreeMap<&'static str, u64>,
    /// How the requests ended.
    pub endings: BTreeMap<String, u64>,
    /// Requests in all.
    pub requests: u64,
}

/// Runs `count` seeds from `first` on, and tells `each` of every run.
pub fn sweep(
    first: u64,
    count: u64,
    threads: usize,
    each: impl Fn(&Result<Report, Box<Failure>>) + Sync,
) -> Sweep {
    let (next, total) = (AtomicU64::new(0), Mutex::new(Sweep::default()));
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let result = run(first.wrapping_add(number));
                    each(&result);
                    total.lock().take(result);
                }
            });
        }
    });
    total.into_inner()
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:9} requests, which ended so:", self.requests)?;
        for (ending, requests) in &self.endings {
            writeln!(f, "{requests:9} {ending}")?;
        }
        writeln!(f, "{:9} faults:", self.faults.values().sum::<u64>())?;
        for (kind, faults) in &self.faults {
            writeln!(f, "{faults:9} {kind}")?;
        }
        writeln!(f, "what happened:")?;
        for (what, times) in &self.happened {
            writeln!(f, "{times:9} {what}")?;
        }
        Ok(())
    }
}

impl Sweep {
    fn take(&mut self, result: Result<Report, Box<Failure>>) {
        let report = match &result {
            Ok(report) => report,
            Err(failure) => &failure.report,
        };
        self.requests += report.endings.len() as u64;
        for kind in &report.faults {
            *self.faults.entry(kind).or_default() += 1;
        }
        for (what, times) in &report.happened {
            *self.happened.entry(what).or_default() += times;
        }
        for ending in &report.endings {
            *self.endings.entry(format!("{ending:?}")).or_default() += 1;
        }
        match result {
            Ok(_) => self.kept += 1,
            Err(failure) => {
                self.failures.insert(failure.report.seed, failure);
            }
        }
    }
}
