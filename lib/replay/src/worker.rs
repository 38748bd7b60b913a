//! A simulated worker: its scheduler, and the step that is being made.

use dynamo_mocker::scheduler::{Scheduler, SchedulerConfig, Step};
use dynamo_mocker::timing::Timing;
use dynamo_protocols::engine::{EngineRequest, StopConditions};
use dynamo_protocols::load::LoadReport;
use std::sync::Arc;
use std::time::Duration;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Worker {
    scheduler: Scheduler,
    /// What comes of the step that is being made, when it is over.
    step: Option<Step>,
    /// Time in which it had something to do.
    busy: Duration,
}

impl Worker {
    pub(crate) fn new(config: SchedulerConfig, timing: Timing) -> Self {
        Self {
            scheduler: Scheduler::new(config, timing),
            step: None,
            busy: Duration::ZERO,
        }
    }

    /// Takes a request in. Answers whether it had nothing to do before.
    pub(crate) fn submit(&mut self, id: u64, prompt: Vec<u32>, output_tokens: u32) -> bool {
        let request = EngineRequest {
            prompt_ids: Arc::from(prompt),
            stop: StopConditions {
                max_tokens: output_tokens,
                ignore_eos: true,
                ..StopConditions::default()
            },
            ..EngineRequest::default()
        };
        self.scheduler.submit(id, &request);
        self.step.is_none()
    }

    /// Begins the next step. Says when it is over, if there is anything to do.
    pub(crate) fn begin(&mut self, now: Duration) -> Option<Duration> {
        let step = self.scheduler.step(now);
        if step.is_idle() && step.kv_events.is_empty() {
            return None;
        }
        self.busy += step.duration;
        let ends_at = step.ends_at;
        self.step = Some(step);
        Some(ends_at)
    }

    /// Ends the step: what came of it.
    pub(crate) fn end(&mut self) -> Option<Step> {
        self.step.take()
    }

    pub(crate) fn load(&self) -> LoadReport {
        self.scheduler.load()
    }

    pub(crate) fn busy(&self) -> Duration {
        self.busy
    }
}
