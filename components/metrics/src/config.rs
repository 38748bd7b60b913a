//! The component's options, each declared here and nowhere else.

use crate::fleet::Bounds;
use dynamo_config::options;
use std::time::Duration;

options! {
    /// The metrics component.
    pub struct MetricsOptions("metrics") {
        /// The component whose workers are shown. Not given, those of every component.
        component: Option<String> = None, env = "DYN_METRICS_COMPONENT";
        /// The endpoint whose workers are shown: its name, or
        /// `dyn://namespace.component.endpoint`. Not given, every endpoint that serves a model.
        endpoint: Option<String> = None, env = "DYN_METRICS_ENDPOINT";
        /// Address of the pages. Other machines reach only what does not listen on loopback.
        host: String = "127.0.0.1".to_owned(), env = "DYN_METRICS_HOST";
        /// Port of the pages; 0 takes a free one.
        port: u16 = 9_091, env = "DYN_METRICS_PORT", short = 'p', deprecated = "--metrics-port";
        /// How long a worker may tell nothing of itself, or be out of reach, until it counts as
        /// stale. An idle worker is not silent: its news are followed.
        stale_after: Duration = Duration::from_secs(10), env = "DYN_METRICS_STALE_AFTER",
            min = Duration::from_millis(100), max = Duration::from_secs(86_400);
        /// Endpoints that are shown; workers of further ones are counted as left out.
        max_endpoints: usize = 64, env = "DYN_METRICS_MAX_ENDPOINTS", min = 1, max = 4_096;
        /// Workers that are shown by themselves, each data-parallel rank for one. Further ones
        /// are part of their endpoint's figures, and counted as left out.
        max_workers: usize = 1_024, env = "DYN_METRICS_MAX_WORKERS", max = 65_536;
    }
}

impl MetricsOptions {
    /// What the fleet keeps to.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            max_endpoints: self.max_endpoints,
            max_workers: self.max_workers,
            stale_after: self.stale_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declarations_are_sound() {
        let problems = dynamo_config::Schema::new()
            .with::<MetricsOptions>()
            .check();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
