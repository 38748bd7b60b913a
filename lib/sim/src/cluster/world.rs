//! What the simulator knows of all hosts at once. Hosts talk to each other over the network and
//! discovery alone; this is where they leave what is judged.

use super::fault::{FaultKind, Host};
use super::gate::Gate;
use super::leases::Leases;
use super::owned::Running;
use super::plan::ClusterPlan;
use super::radio::Air;
use super::tamper::FrameFaults;
use super::{Broken, Ending, Violation};
use crate::Trace;
use crate::environment::ClockSkew;
use crate::traffic::Traffic;
use dynamo_llm::registry::ModelRegistry;
use dynamo_mocker::MockEngine;
use dynamo_protocols::engine::Engine;
use dynamo_protocols::kv::SequenceHash;
use dynamo_runtime::telemetry::MetricsRegistry;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Everything that the run shares.
pub(super) struct World {
    pub(super) plan: ClusterPlan,
    pub(super) broken: Broken,
    pub(super) trace: Trace,
    pub(super) leases: Mutex<Leases>,
    pub(super) workers: Vec<Mutex<WorkerSeat>>,
    pub(super) frontends: Vec<Mutex<FrontendSeat>>,
    pub(super) requests: Mutex<Vec<RequestState>>,
    pub(super) traffic: Arc<Traffic>,
    /// Where events are on their way that are broadcast.
    pub(super) air: Mutex<Air>,
    /// The faults that are on.
    pub(super) on: Mutex<Vec<FaultKind>>,
    pub(super) violations: Mutex<Vec<Violation>>,
    story: Mutex<Vec<String>>,
    ids: BTreeMap<String, usize>,
    happened: Mutex<BTreeMap<&'static str, u64>>,
}

/// What a process is told from outside, and how wrong its clock is.
#[derive(Debug, Clone, Default)]
pub(super) struct Orders {
    /// How often it was started before.
    pub(super) incarnation: u64,
    /// SIGKILL, which comes a step before the process is taken away.
    pub(super) die: CancellationToken,
    /// SIGTERM.
    pub(super) terminate: CancellationToken,
    /// The run is over.
    pub(super) stop: CancellationToken,
    pub(super) skew: ClockSkew,
    /// SIGSTOP and SIGCONT.
    pub(super) gate: Gate,
    /// What is to happen to its frames.
    pub(super) frames: Arc<FrameFaults>,
    /// How late its announcement is seen.
    pub(super) announced_late: Duration,
}

/// A worker's place.
#[derive(Debug, Default)]
pub(super) struct WorkerSeat {
    pub(super) orders: Orders,
    /// Who serves there now.
    pub(super) life: Option<WorkerLife>,
}

/// A worker that serves.
#[derive(Debug, Clone)]
pub(super) struct WorkerLife {
    pub(super) instance: u64,
    pub(super) engine: Arc<MockEngine>,
    /// What its cache holds.
    pub(super) cache: Arc<Mutex<BTreeSet<SequenceHash>>>,
    /// What its engine works on.
    pub(super) running: Running,
}

/// A frontend's place.
#[derive(Debug, Default)]
pub(super) struct FrontendSeat {
    pub(super) orders: Orders,
    pub(super) registry: Option<ModelRegistry>,
    pub(super) metrics: Option<MetricsRegistry>,
}

/// How far a request is.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestState {
    pub(super) begun: Option<Duration>,
    /// When something of it was seen last.
    pub(super) heard: Duration,
    /// Tokens of each choice so far.
    pub(super) given: Vec<usize>,
    pub(super) ended: Option<(Duration, Ending)>,
}

impl World {
    pub(super) fn new(plan: ClusterPlan, broken: Broken) -> Self {
        let requests = plan.requests.iter().map(|request| RequestState {
            given: vec![0; request.choices],
            ..RequestState::default()
        });
        let ids = plan.requests.iter().enumerate();
        Self {
            ids: ids.map(|(at, it)| (it.id.clone(), at)).collect(),
            requests: Mutex::new(requests.collect()),
            workers: plan.workers.iter().map(|_| Mutex::default()).collect(),
            frontends: (0..plan.frontends).map(|_| Mutex::default()).collect(),
            trace: Trace::hash_only(),
            traffic: Arc::default(),
            air: Mutex::default(),
            happened: Mutex::default(),
            leases: Mutex::default(),
            on: Mutex::default(),
            violations: Mutex::default(),
            story: Mutex::default(),
            plan,
            broken,
        }
    }

    /// Virtual time since the begin.
    pub(super) fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_default()
    }

    pub(super) fn reaches_discovery(&self, host: Host) -> bool {
        let on = self.on.lock();
        !on.iter().any(|kind| kind.hides_discovery_from(host))
    }

    pub(super) fn orders(&self, host: Host) -> Orders {
        match host {
            Host::Frontend(number) => self.frontends[number].lock().orders.clone(),
            Host::Worker(number) => self.workers[number].lock().orders.clone(),
        }
    }

    /// The request of this id.
    pub(super) fn index_of(&self, id: &str) -> Option<usize> {
        self.ids.get(id).copied()
    }

    /// Tells of something that matters to whoever reads the story.
    pub(super) fn tell(&self, at: Duration, who: impl fmt::Display, what: fmt::Arguments<'_>) {
        self.trace.record_at(at, &who.to_string(), what);
        let line = format!("{:>8.3} {who}: {what}", at.as_secs_f64());
        self.story.lock().push(line);
    }

    pub(super) fn violated(&self, at: Duration, violation: Violation) {
        self.tell(at, "VIOLATION", format_args!("{violation}"));
        self.violations.lock().push(violation);
    }

    /// Notes the end of a request, unless it has ended already.
    pub(super) fn ended(&self, index: usize, at: Duration, ending: Ending) {
        let state = &mut self.requests.lock()[index];
        if state.ended.is_some() {
            return;
        }
        state.ended = Some((at, ending));
        let request = &self.plan.requests[index];
        let (id, frontend, given) = (&request.id, Host::Frontend(request.frontend), &state.given);
        let what = format_args!(
            "{id} {ending:?} after {given:?} of {} tokens",
            request.tokens
        );
        match ending {
            Ending::Complete | Ending::GivenUp => {
                self.trace.record_at(at, &frontend.to_string(), what);
            }
            _ => {
                self.tell(at, frontend, what);
                self.tell(at, "workers", format_args!("{}", self.loads()));
            }
        }
    }

    /// What each worker works on, what waits there, and its blocks in use.
    fn loads(&self) -> String {
        let loads = self.workers.iter().map(|seat| match &seat.lock().life {
            None => "away".to_owned(),
            Some(life) => {
                let load = Engine::load(&*life.engine);
                let [runs, waits] = [&load.scheduled, &load.queued]
                    .map(|it| it.num_prefill_requests + it.num_decode_requests);
                format!("{runs}+{waits} ({})", load.used_blocks - load.cached_blocks)
            }
        });
        loads.collect::<Vec<_>>().join(", ")
    }

    /// Counts something that really happened.
    pub(super) fn count(&self, what: &'static str, times: u64) {
        if times > 0 {
            *self.happened.lock().entry(what).or_default() += times;
        }
    }

    /// How often what happened.
    pub(super) fn happened(&self) -> BTreeMap<&'static str, u64> {
        let mut happened = std::mem::take(&mut *self.happened.lock());
        let (messages, overtaken) = self.traffic.counts();
        happened.extend([("messages", messages), ("messages overtaken", overtaken)]);
        happened
    }

    /// What happened, in order.
    pub(super) fn story(&self) -> Vec<String> {
        std::mem::take(&mut *self.story.lock())
    }
}
