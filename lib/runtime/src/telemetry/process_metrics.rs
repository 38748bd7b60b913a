//! What the operating system knows about this process, under the names that every Prometheus
//! client library uses.
//!
//! Read from `/proc` when the metrics are asked for. Where there is no `/proc`, and for any
//! figure that cannot be read, the metric is absent rather than zero.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};
use std::fs;
use std::path::PathBuf;

/// Ticks per second of the CPU times in `/proc`. A constant of the kernel's interface with
/// user space (`USER_HZ`) on every architecture that is built for here.
const TICKS_PER_SECOND: f64 = 100.0;

/// Fields of `/proc/self/stat` counted from the one after the command's name, which is the only
/// one that may contain spaces: `utime`, `stime` and `starttime` (14, 15 and 22 in proc(5)).
const UTIME: usize = 11;
const STIME: usize = 12;
const START_TIME: usize = 19;

/// Memory, CPU time, open files and start time of this process.
#[derive(Debug)]
pub struct ProcessMetrics {
    proc: PathBuf,
    resident: Gauge,
    cpu: Counter,
    open_files: Gauge,
    start: Gauge,
}

/// Times of a process, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Times {
    cpu: u64,
    start: u64,
}

// === impl ProcessMetrics ===

impl ProcessMetrics {
    /// Metrics of the process that asks.
    pub fn new() -> Result<Self, super::MetricsError> {
        Self::read_from(PathBuf::from("/proc"))
    }

    fn read_from(proc: PathBuf) -> Result<Self, super::MetricsError> {
        Ok(Self {
            proc,
            resident: Gauge::new(
                "process_resident_memory_bytes",
                "Memory of the process that is in RAM.",
            )?,
            cpu: Counter::new(
                "process_cpu_seconds_total",
                "CPU time of the process, its own and the kernel's for it.",
            )?,
            open_files: Gauge::new("process_open_fds", "Open file descriptors.")?,
            start: Gauge::new(
                "process_start_time_seconds",
                "When the process began, in seconds since the Unix epoch.",
            )?,
        })
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.proc.join(path)).ok()
    }

    fn open_files(&self) -> Option<u64> {
        // The folder that is being read is one of the descriptors.
        let count = fs::read_dir(self.proc.join("self/fd")).ok()?.count();
        Some(count.saturating_sub(1) as u64)
    }
}

impl Collector for ProcessMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.resident, &self.open_files, &self.start];
        let mut all: Vec<&Desc> = gauges.into_iter().flat_map(Collector::desc).collect();
        all.extend(self.cpu.desc());
        all
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::new();
        if let Some(bytes) = self.read("self/status").as_deref().and_then(resident_bytes) {
            self.resident.set(bytes as f64);
            families.extend(self.resident.collect());
        }
        let times = self.read("self/stat").as_deref().and_then(times);
        if let Some(times) = times {
            let seconds = times.cpu as f64 / TICKS_PER_SECOND;
            self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
            families.extend(self.cpu.collect());
        }
        if let Some(count) = self.open_files() {
            self.open_files.set(count as f64);
            families.extend(self.open_files.collect());
        }
        let boot = self.read("stat").as_deref().and_then(boot_time);
        if let (Some(times), Some(boot)) = (times, boot) {
            self.start
                .set(boot as f64 + times.start as f64 / TICKS_PER_SECOND);
            families.extend(self.start.collect());
        }
        families
    }
}

/// `VmRSS` of `/proc/self/status`.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Times of `/proc/self/stat`.
fn times(stat: &str) -> Option<Times> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Times {
        cpu: number(UTIME)?.checked_add(number(STIME)?)?,
        start: number(START_TIME)?,
    })
}

/// `btime` of `/proc/stat`: when the machine was started, in seconds since the Unix epoch.
fn boot_time(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_name_with_spaces_and_brackets_is_no_obstacle() {
        let stat = "7 (a) b (c) R 1 7 7 0 -1 4194304 95 0 0 0 250 50 0 0 20 0 1 0 4200 2 3";
        let wanted = Times {
            cpu: 300,
            start: 4200,
        };
        assert_eq!(times(stat), Some(wanted));
    }

    #[test]
    fn memory_and_boot_time_are_found_among_other_lines() {
        assert_eq!(
            resident_bytes("Name:\tdynamo\nVmRSS:\t    2048 kB\nThreads:\t3\n"),
            Some(2 << 20)
        );
        assert_eq!(
            boot_time("cpu  1 2\nbtime 1700000000\n"),
            Some(1_700_000_000)
        );
    }

    #[test]
    fn without_proc_the_metrics_are_absent() {
        let metrics = ProcessMetrics::read_from(PathBuf::from("/nowhere/at/all")).unwrap();
        assert!(metrics.collect().is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_all_of_them() {
        let metrics = ProcessMetrics::new().unwrap();
        let value = |name: &str| {
            let families = metrics.collect();
            let family = families.iter().find(|family| family.name() == name);
            let metric = &family.unwrap().get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_start_time_seconds") > 1.6e9);
        let before = value("process_cpu_seconds_total");
        assert!(value("process_cpu_seconds_total") >= before);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in any::<String>()) {
            let _ = (times(&text), resident_bytes(&text), boot_time(&text));
        }
    }
}
