//! Whether this process can be given work.
//!
//! One [`HealthState`] per process, shared by everything that serves an endpoint. The process is
//! ready when it is not draining, has at least one endpoint, and every endpoint is ready: a
//! process that has nothing to serve yet is still starting. Draining is final.

use parking_lot::RwLock;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Whether an endpoint can be given work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointStatus {
    /// It can.
    Ready,
    /// Not yet, or not any more.
    NotReady,
}

/// The state of the process and of its endpoints. Cheap to clone; clones are the same state.
#[derive(Debug, Clone)]
pub struct HealthState {
    shared: Arc<RwLock<Health>>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Health {
    draining: bool,
    endpoints: BTreeMap<String, EndpointStatus>,
}

/// What [`HealthState`] says at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HealthReport {
    /// Whether the process can be given work.
    pub status: EndpointStatus,
    /// Time since the process began, in seconds.
    #[serde(serialize_with = "seconds")]
    pub uptime: Duration,
    /// Its endpoints by name.
    pub endpoints: BTreeMap<String, EndpointStatus>,
}

// === impl HealthState ===

impl HealthState {
    /// A process that has just begun and serves nothing yet.
    pub fn new() -> Self {
        Self {
            shared: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Says how an endpoint is; it is known from the first time on.
    pub fn set_endpoint(&self, name: &str, status: EndpointStatus) {
        let mut health = self.shared.write();
        health.endpoints.insert(name.to_owned(), status);
    }

    /// Forgets an endpoint that is not served any more.
    pub fn remove_endpoint(&self, name: &str) {
        self.shared.write().endpoints.remove(name);
    }

    /// From now on the process takes no new work.
    pub fn set_draining(&self) {
        self.shared.write().draining = true;
    }

    /// How things are.
    pub fn report(&self) -> HealthReport {
        let health = self.shared.read();
        HealthReport {
            status: health.status(),
            uptime: self.started.elapsed(),
            endpoints: health.endpoints.clone(),
        }
    }
}

impl Default for HealthState {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Health ===

impl Health {
    fn status(&self) -> EndpointStatus {
        let all_ready = self
            .endpoints
            .values()
            .all(|status| *status == EndpointStatus::Ready);
        if all_ready && !self.endpoints.is_empty() && !self.draining {
            EndpointStatus::Ready
        } else {
            EndpointStatus::NotReady
        }
    }
}

// === impl HealthReport ===

impl HealthReport {
    /// Whether the process can be given work.
    pub fn is_ready(&self) -> bool {
        self.status == EndpointStatus::Ready
    }
}

fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use EndpointStatus::{NotReady, Ready};

    #[tokio::test]
    async fn a_process_is_ready_when_all_it_serves_is() {
        let health = HealthState::new();
        assert_eq!(health.report().status, NotReady);
        health.set_endpoint("generate", Ready);
        health.set_endpoint("embed", NotReady);
        assert_eq!(health.report().status, NotReady);
        health.set_endpoint("embed", Ready);
        assert!(health.report().is_ready());
        health.set_endpoint("generate", NotReady);
        assert!(!health.report().is_ready());
        health.remove_endpoint("generate");
        assert!(health.report().is_ready());
    }

    #[tokio::test]
    async fn draining_is_final() {
        let health = HealthState::new();
        health.set_draining();
        health.set_endpoint("generate", Ready);
        assert_eq!(health.report().status, NotReady);
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_reads_as_published() {
        let health = HealthState::new();
        health.set_endpoint("generate", NotReady);
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(
            serde_json::to_string(&health.report()).unwrap(),
            r#"{"status":"notready","uptime":1.5,"endpoints":{"generate":"notready"}}"#
        );
    }
}
