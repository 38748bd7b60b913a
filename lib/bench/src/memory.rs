//! The resident memory of a process over a run: read once a second, judged at the end.
//!
//! Reading `/proc` takes microseconds and touches no disk, so it happens between two requests of
//! the task that shows the progress. The series and what follows from it are pure.

use crate::error::BenchError;
use serde_json::{Value, json};
use std::time::Duration;

/// Most samples that are kept. A run that outgrows them keeps every second one and takes half as
/// many from then on; 1,200 at the least are more than a plot has points to show.
const MAX_SAMPLES: usize = 2_400;

/// The part of a run after which a server is expected to have all the memory that it needs.
pub const SETTLED: f64 = 0.2;

/// Memory at one moment of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Since the start.
    pub at: Duration,
    /// Resident bytes.
    pub bytes: u64,
}

/// Samples in the order of their time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Series {
    samples: Vec<Sample>,
    /// Each so many samples one is kept.
    every: u32,
    /// Samples since the last that was kept.
    skipped: u32,
    last: Option<Sample>,
}

/// What a series comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Memory when a fifth of the run was over.
    pub settled: Sample,
    /// Memory at the end.
    pub end: Sample,
    /// The most at any sample.
    pub most: u64,
    /// The end as a multiple of `settled`.
    pub ratio: f64,
}

/// The memory of a process over a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Memory {
    /// The process.
    pub pid: u32,
    /// What was read.
    pub series: Series,
    /// When the process could no longer be read: it had ended.
    pub lost: Option<Duration>,
}

impl Series {
    /// Adds a sample, later than those before.
    pub fn add(&mut self, sample: Sample) {
        self.last = Some(sample);
        self.skipped += 1;
        if self.skipped < self.every {
            return;
        }
        self.skipped = 0;
        if self.samples.len() == MAX_SAMPLES {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every = self.every.max(1) * 2;
        }
        self.samples.push(sample);
    }

    /// The samples that were kept, and the last.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        let kept_last = self.samples.last() == self.last.as_ref();
        let last = self.last.filter(|_| !kept_last);
        self.samples.iter().copied().chain(last)
    }

    /// How the memory grew, if there are samples from before and after a fifth of the run.
    pub fn growth(&self) -> Option<Growth> {
        let end = self.last?;
        let mark = end.at.mul_f64(SETTLED);
        let settled = self
            .samples()
            .min_by_key(|it| it.at.abs_diff(mark))
            .filter(|it| it.at < end.at && it.bytes > 0)?;
        Some(Growth {
            settled,
            end,
            most: self.samples().map(|it| it.bytes).max()?,
            ratio: end.bytes as f64 / settled.bytes as f64,
        })
    }
}

impl Memory {
    /// Watches a process, which must be there.
    pub(crate) fn watch(pid: u32) -> Result<Self, BenchError> {
        read(pid).map_err(|source| BenchError::Watch { pid, source })?;
        Ok(Self {
            pid,
            series: Series::default(),
            lost: None,
        })
    }

    /// Reads the process's memory.
    pub(crate) fn sample(&mut self, at: Duration) {
        if self.lost.is_some() {
            return;
        }
        match read(self.pid) {
            Ok(bytes) => self.series.add(Sample { at, bytes }),
            Err(_) => self.lost = Some(at),
        }
    }

    /// The figures, for the result.
    pub(crate) fn as_json(&self) -> Value {
        let growth = self.series.growth();
        json!({
            "pid": self.pid,
            "rss_bytes_at_20_percent": growth.map(|it| it.settled.bytes),
            "rss_bytes_at_end": growth.map(|it| it.end.bytes),
            "rss_bytes_max": growth.map(|it| it.most),
            "growth": growth.map(|it| it.ratio),
            "lost_at_s": self.lost.map(|it| it.as_secs_f64()),
        })
    }

    /// The samples, for the result file.
    pub(crate) fn samples_as_json(&self) -> Value {
        let samples = self.series.samples();
        let samples = samples.map(|it| json!({"at_s": it.at.as_secs_f64(), "rss_bytes": it.bytes}));
        samples.collect()
    }
}

fn read(pid: u32) -> std::io::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    // A process that has ended and was not waited for has a status, but no memory.
    resident_bytes(&status).ok_or_else(|| std::io::Error::other("the process has ended"))
}

/// `VmRSS` of a `/proc/PID/status`, which Linux counts in units of 1024 bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes = value.trim().strip_suffix("kB")?.trim_end();
    kibibytes.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn series(bytes: impl IntoIterator<Item = u64>) -> Series {
        let mut series = Series::default();
        for (second, bytes) in bytes.into_iter().enumerate() {
            let at = Duration::from_secs(second as u64);
            series.add(Sample { at, bytes });
        }
        series
    }

    #[test]
    fn growth_is_the_end_over_a_fifth_of_the_run() {
        // Eleven samples over ten seconds: a fifth is at second 2.
        let bytes = [10, 50, 100, 300, 100, 100, 100, 100, 100, 100, 104];
        let growth = series(bytes).growth().unwrap();
        assert_eq!((growth.settled.bytes, growth.end.bytes), (100, 104));
        assert_eq!((growth.most, growth.ratio), (300, 1.04));
    }

    #[test]
    fn a_run_too_short_to_have_a_fifth_has_no_growth() {
        assert_eq!(series([]).growth(), None);
        assert_eq!(series([5]).growth(), None);
        assert_eq!(series([0, 5]).growth(), None);
        assert_eq!(series([4, 5]).growth().unwrap().ratio, 1.25);
    }

    #[test]
    fn the_status_of_a_process_is_read() {
        let status = "Name:\tx\nVmHWM:\t  999 kB\nVmRSS:\t  1234 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(resident_bytes(status), Some(1234 * 1024));
        for status in ["", "VmRSS:", "VmRSS:\t12 MB", "VmRSS:\tx kB"] {
            assert_eq!(resident_bytes(status), None, "{status:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_is_watched_until_it_ends() {
        assert!(Memory::watch(u32::MAX).is_err());
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut memory = Memory::watch(child.id()).unwrap();
        memory.sample(Duration::from_secs(1));
        child.kill().unwrap();
        child.wait().unwrap();
        memory.sample(Duration::from_secs(2));
        memory.sample(Duration::from_secs(3));
        assert_eq!(memory.series.samples().count(), 1);
        assert_eq!(memory.lost, Some(Duration::from_secs(2)));
    }

    proptest! {
        #[test]
        fn however_long_a_run_samples_are_bounded_and_the_growth_stays(
            seconds in 2..30_000_u64, slope in 0..1_000_u64,
        ) {
            let bytes = |second: u64| 1_000_000 + second * slope;
            let series = series((0..seconds).map(bytes));
            prop_assert!(series.samples().count() <= MAX_SAMPLES + 1);
            prop_assert!(series.samples().is_sorted_by_key(|it| it.at));
            let growth = series.growth().unwrap();
            prop_assert_eq!(growth.end.bytes, bytes(seconds - 1));
            let mark = (seconds - 1) as f64 * SETTLED;
            // A sample is never further from a fifth of the run than half a step between samples.
            let step = f64::from(series.every.max(1));
            prop_assert!((growth.settled.at.as_secs_f64() - mark).abs() <= step / 2.0 + 1e-6);
        }
    }
}
