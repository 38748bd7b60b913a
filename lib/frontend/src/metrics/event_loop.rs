//! Whether the threads that serve requests are held up: a task that asks to be woken at a time,
//! and counts how much later it is.

use super::declare::Declare;
use dynamo_runtime::telemetry::MetricsError;
use prometheus::{Histogram, IntCounter};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

const DELAY: &[f64] = &[0.0, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];

/// Time between two looks. What holds up requests goes on or comes back, and is met soon; ten
/// wake-ups a second cost an idle process nothing that can be measured.
const INTERVAL: Duration = Duration::from_millis(100);

/// A delay from which on the loop counts as stalled. The timer itself is a millisecond late.
const STALL: Duration = Duration::from_millis(5);

/// Delays of the event loop.
#[derive(Debug, Clone)]
pub(crate) struct EventLoopMetrics {
    delay: Histogram,
    stalls: IntCounter,
}

impl EventLoopMetrics {
    pub(super) fn declare(by: &Declare<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            delay: by.histogram(
                "event_loop_delay_seconds",
                "How much later than it asked for a task is woken",
                DELAY,
            )?,
            stalls: by.counter(
                "event_loop_stall_total",
                "Times that a task was woken more than 5 ms late",
            )?,
        })
    }

    /// Looks for as long as it is polled.
    pub(crate) async fn watch(self) {
        loop {
            let due = Instant::now() + INTERVAL;
            sleep_until(due).await;
            self.woken(due.elapsed());
        }
    }

    fn woken(&self, late: Duration) {
        self.delay.observe(late.as_secs_f64());
        if late > STALL {
            self.stalls.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_runtime::telemetry::MetricsRegistry;

    #[tokio::test(start_paused = true)]
    async fn a_thread_that_is_held_up_counts_as_a_stall() {
        let registry = MetricsRegistry::new();
        let by = Declare {
            registry: &registry,
            prefix: "test",
        };
        let metrics = EventLoopMetrics::declare(&by).unwrap();
        let mut watch = std::pin::pin!(metrics.clone().watch());
        assert!(futures_util::poll!(watch.as_mut()).is_pending());
        // Time goes on, and the task is not looked at.
        tokio::time::advance(INTERVAL).await;
        assert!(futures_util::poll!(watch.as_mut()).is_pending());
        assert_eq!(metrics.delay.get_sample_count(), 1);
        assert_eq!(metrics.stalls.get(), 0);
        tokio::time::advance(INTERVAL + STALL * 2).await;
        assert!(futures_util::poll!(watch.as_mut()).is_pending());
        assert_eq!(metrics.delay.get_sample_count(), 2);
        assert_eq!(metrics.stalls.get(), 1);
    }
}
