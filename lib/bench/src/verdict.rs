//! Whether a run has passed: a pure function of its figures and the limits that were set.

use crate::config::BenchServeOptions;
use crate::figures::Statistics;
use crate::memory::Memory;
use std::time::Duration;

/// Why a run has not passed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Breach {
    /// It was ended before its time.
    #[error("interrupted")]
    Interrupted,
    /// There are no figures.
    #[error("no request was answered")]
    NothingAnswered,
    /// More requests failed than may.
    #[error("{failed} requests failed, {hung} of them hung; --max-failures allows {allowed}")]
    Failures {
        /// Requests that failed.
        failed: u64,
        /// Those among them that had no end within their time.
        hung: u64,
        /// How many may fail.
        allowed: u64,
    },
    /// The watched process grew more than it may.
    #[error(
        "process {pid} grew to {ratio:.3} times its memory at 20 percent of the run; \
         --max-rss-growth allows {allowed}"
    )]
    Growth {
        /// The process.
        pid: u32,
        /// Its memory at the end, as a multiple.
        ratio: f64,
        /// The most that it may be.
        allowed: f64,
    },
    /// The watched process ended before the run did.
    #[error("process {pid} ended {:.0} s after the start", at.as_secs_f64())]
    Lost {
        /// The process.
        pid: u32,
        /// When.
        at: Duration,
    },
    /// The run was over before the memory could be read twice.
    #[error("too short to say how much process {pid} grew: give it a --duration of some seconds")]
    TooShort {
        /// The process.
        pid: u32,
    },
}

/// Why the run has not passed; nothing if it has.
pub fn breaches(
    options: &BenchServeOptions,
    statistics: &Statistics,
    memory: Option<&Memory>,
    is_interrupted: bool,
) -> Vec<Breach> {
    let mut breaches = Vec::new();
    if is_interrupted {
        breaches.push(Breach::Interrupted);
    }
    if statistics.completed == 0 {
        breaches.push(Breach::NothingAnswered);
    }
    let failed = statistics.failed;
    if let Some(allowed) = options.max_failures.filter(|allowed| failed > *allowed) {
        let hung = statistics.hung;
        breaches.push(Breach::Failures {
            failed,
            hung,
            allowed,
        });
    }
    breaches.extend(memory.and_then(|it| memory_breach(it, options.max_rss_growth)));
    breaches
}

fn memory_breach(memory: &Memory, allowed: Option<f64>) -> Option<Breach> {
    let pid = memory.pid;
    if let Some(at) = memory.lost {
        return Some(Breach::Lost { pid, at });
    }
    let allowed = allowed?;
    match memory.series.growth() {
        None => Some(Breach::TooShort { pid }),
        Some(growth) if growth.ratio > allowed => Some(Breach::Growth {
            pid,
            ratio: growth.ratio,
            allowed,
        }),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::tests::answered;
    use crate::figures::{End, Failure, Record};
    use crate::memory::{Sample, Series};

    fn statistics(failures: &[Failure]) -> Statistics {
        let mut statistics = Statistics::new(None);
        statistics.add(&answered(0, &[5]));
        for failure in failures {
            statistics.add(&Record {
                end: End::Failed(failure.clone()),
                ..answered(0, &[])
            });
        }
        statistics
    }

    fn memory(bytes: &[u64]) -> Memory {
        let mut series = Series::default();
        for (second, bytes) in bytes.iter().enumerate() {
            let at = Duration::from_secs(second as u64);
            series.add(Sample { at, bytes: *bytes });
        }
        Memory {
            pid: 7,
            series,
            lost: None,
        }
    }

    fn growth_allowed(most: f64, memory: &Memory) -> Vec<Breach> {
        let options = BenchServeOptions {
            max_rss_growth: Some(most),
            ..BenchServeOptions::default()
        };
        breaches(&options, &statistics(&[]), Some(memory), false)
    }

    #[test]
    fn failures_count_only_beyond_what_is_allowed_and_hung_ones_are_named() {
        let failed = statistics(&[Failure::Timeout, Failure::CutOff(String::new())]);
        let with = |max_failures| {
            let options = BenchServeOptions {
                max_failures,
                ..BenchServeOptions::default()
            };
            breaches(&options, &failed, None, false)
        };
        assert_eq!((with(None), with(Some(2))), (vec![], vec![]));
        let expected = Breach::Failures {
            failed: 2,
            hung: 1,
            allowed: 1,
        };
        assert_eq!(with(Some(1)), [expected]);
    }

    #[test]
    fn a_run_without_an_answer_or_without_its_end_has_not_passed() {
        let options = BenchServeOptions::default();
        let none = Statistics::new(None);
        let found = breaches(&options, &none, None, true);
        assert_eq!(found, [Breach::Interrupted, Breach::NothingAnswered]);
    }

    #[test]
    fn memory_may_grow_up_to_its_limit_and_no_further() {
        let grown = memory(&[90, 100, 100, 100, 100, 105]);
        assert_eq!(growth_allowed(1.05, &grown), []);
        let said = growth_allowed(1.04, &grown)[0].to_string();
        assert!(said.contains("process 7 grew to 1.050 times"), "{said}");
        assert_eq!(
            growth_allowed(1.04, &memory(&[1])),
            [Breach::TooShort { pid: 7 }]
        );
    }

    #[test]
    fn a_process_that_ended_has_not_stayed_small() {
        let lost = Memory {
            lost: Some(Duration::from_secs(3)),
            ..memory(&[100, 100, 50])
        };
        let expected = Breach::Lost {
            pid: 7,
            at: Duration::from_secs(3),
        };
        assert_eq!(growth_allowed(9.0, &lost), [expected]);
    }
}
