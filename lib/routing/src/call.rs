//! A request on its way to a worker: placed, and placed again if a worker does not take it.
//!
//! Invariant: at any time it is booked with one worker at most, and dropping it ends that booking
//! unless the answer has taken it over.

use crate::account::Accounted;
use crate::question::Question;
use crate::router::Shared;
use bytes::Bytes;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::router::{Placed, Ticket};
use dynamo_protocols::engine::EngineRequest;
use dynamo_runtime::component::typed::encode;
use dynamo_runtime::component::{Chooser, Chosen, Policy};
use dynamo_runtime::discovery::InstanceId;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

/// See the module's description.
#[derive(Debug)]
pub struct RoutedCall {
    state: Arc<CallState>,
}

struct CallState {
    shared: Arc<Shared>,
    question: Question,
    booked: Mutex<Booked>,
    /// The request as it is sent, in which it has to be said which rank gets it.
    request: Mutex<Option<Arc<EngineRequest>>>,
}

/// Where it stands.
struct Booked {
    placed: Option<Placed>,
    /// Whether a worker was asked already: then whoever was asked did not take it.
    asked: bool,
}

impl fmt::Debug for CallState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallState").finish_non_exhaustive()
    }
}

/// The outcome for a worker that did not take a request.
const REFUSED: Outcome = Outcome {
    cached_tokens: None,
    output_tokens: 0,
    end: End::Failed,
};

impl RoutedCall {
    pub(crate) fn new(shared: Arc<Shared>, question: Question, placed: Placed) -> Self {
        Self {
            state: Arc::new(CallState {
                shared,
                question,
                booked: Mutex::new(Booked {
                    placed: Some(placed),
                    asked: false,
                }),
                request: Mutex::default(),
            }),
        }
    }

    /// How the call's instance is picked: `request` is what will be sent.
    pub fn policy(&self, request: &Arc<EngineRequest>) -> Policy {
        *self.state.request.lock() = Some(Arc::clone(request));
        Policy::By(Arc::clone(&self.state) as Arc<dyn Chooser>)
    }

    /// The answer, which until its first item may still come from another worker than the one
    /// that the request was sent to.
    pub fn account<S>(self, answer: S) -> Accounted<S> {
        let shared = Arc::clone(&self.state.shared);
        Accounted::new(answer, shared, self)
    }

    /// Where it is booked now, for whoever ends the booking.
    pub(crate) fn take_ticket(&self) -> Option<Ticket> {
        self.state.take_ticket()
    }
}

impl Drop for RoutedCall {
    fn drop(&mut self) {
        if let Some(ticket) = self.state.take_ticket() {
            self.state.shared.end(&ticket, REFUSED);
        }
    }
}

impl CallState {
    fn take_ticket(&self) -> Option<Ticket> {
        let placed = self.booked.lock().placed.take()?;
        Some(placed.ticket)
    }

    /// Books it elsewhere, with none of `except` if anybody else is there.
    fn place_again(&self, booked: &mut Booked, except: &[InstanceId]) -> Option<Placed> {
        if let Some(former) = booked.placed.take() {
            self.shared.end(&former.ticket, REFUSED);
        }
        let excluded: Vec<u64> = except.iter().map(|instance| instance.get()).collect();
        let placed = self.shared.resubmit(&self.question, &excluded);
        let placed = placed.or_else(|| self.shared.resubmit(&self.question, &[]))?;
        booked.placed = Some(placed);
        Some(placed)
    }
}

impl Chooser for CallState {
    fn choose(&self, except: &[InstanceId]) -> Option<Chosen> {
        let mut booked = self.booked.lock();
        let first = booked.placed.filter(|placed| {
            let excepted = except.iter().any(|it| it.get() == placed.worker.instance);
            !booked.asked && !excepted
        });
        let placed = match first {
            Some(placed) => placed,
            None => self.place_again(&mut booked, except)?,
        };
        booked.asked = true;
        Some(Chosen {
            instance: InstanceId::new(placed.worker.instance)?,
            body: self.body(&placed),
        })
    }
}

impl CallState {
    /// What is sent, if the worker has several ranks.
    fn body(&self, placed: &Placed) -> Option<Bytes> {
        if placed.worker.dp_rank == 0 && !self.shared.has_ranks(placed.worker.instance) {
            return None;
        }
        let request = self.request.lock().clone()?;
        let request = EngineRequest {
            dp_rank: Some(placed.worker.dp_rank),
            ..EngineRequest::clone(&request)
        };
        encode(&request).ok()
    }
}
