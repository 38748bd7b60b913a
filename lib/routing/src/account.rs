//! An answer that tells the router how far it is: its first token, each block that it fills, its
//! end, and what the engine found in its cache.
//!
//! Invariant: the booking ends with the answer, whichever way that ends, and with its drop at the
//! latest. Until the first item the call may be sent elsewhere, and is booked there: only then the
//! booking is this answer's.

use crate::call::RoutedCall;
use crate::router::Shared;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::router::Ticket;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::EngineOutput;
use futures_core::Stream;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// See the module's description.
pub struct Accounted<S> {
    answer: S,
    shared: Arc<Shared>,
    /// The call, until a worker has taken it.
    call: Option<RoutedCall>,
    /// `None` before that, and once the router has been told the end.
    ticket: Option<Ticket>,
    generated: u32,
    /// Generated tokens at which the next block is full.
    next_block: u32,
    cached_tokens: Option<u64>,
}

impl<S> fmt::Debug for Accounted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounted")
            .field("generated", &self.generated)
            .finish_non_exhaustive()
    }
}

impl<S> Accounted<S> {
    pub(crate) fn new(answer: S, shared: Arc<Shared>, call: RoutedCall) -> Self {
        Self {
            answer,
            shared,
            call: Some(call),
            ticket: None,
            generated: 0,
            next_block: u32::MAX,
            cached_tokens: None,
        }
    }

    /// The answer has begun, or never will: it goes nowhere else any more.
    fn settle(&mut self) {
        let Some(call) = self.call.take() else { return };
        self.ticket = call.take_ticket();
        let block_size = self.shared.block_size().get();
        let tokens = self.ticket.map_or(0, |ticket| ticket.isl_tokens);
        let filled = tokens % u64::from(block_size);
        self.next_block = block_size - u32::try_from(filled).unwrap_or(0);
    }

    fn progress(&mut self, output: &EngineOutput) {
        self.settle();
        if let Some(cached) = output.cached_tokens {
            self.cached_tokens = Some(u64::from(cached));
        }
        let Some(ticket) = &self.ticket else { return };
        let new = output.amount();
        let before = self.generated;
        self.generated = before.saturating_add(new);
        if before == 0 && new > 0 {
            self.shared.first_token(ticket);
        }
        while self.generated >= self.next_block {
            self.shared.block_filled(ticket, self.next_block);
            let next = self.next_block.checked_add(self.shared.block_size().get());
            let Some(next) = next else { return };
            self.next_block = next;
        }
        if output.finish_reason.is_some() {
            self.end(End::Finished);
        }
    }

    fn end(&mut self, end: End) {
        self.settle();
        if let Some(ticket) = self.ticket.take() {
            let outcome = Outcome {
                cached_tokens: self.cached_tokens,
                output_tokens: self.generated,
                end,
            };
            self.shared.end(&ticket, outcome);
        }
    }
}

impl<S> Stream for Accounted<S>
where
    S: Stream<Item = Result<EngineOutput, RequestError>> + Unpin,
{
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.answer).poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(output))) => self.progress(output),
            Poll::Ready(Some(Err(_)) | None) => self.end(End::Failed),
            Poll::Pending => {}
        }
        next
    }
}

impl<S> Drop for Accounted<S> {
    fn drop(&mut self) {
        self.end(End::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::{FedSetup, RouterFeed, WorkerRouter};
    use dynamo_kv_router::config::RouterOptions;
    use dynamo_protocols::engine::{EngineRequest, FinishReason, RequestContext};
    use dynamo_runtime::component::{Chooser, Policy};
    use dynamo_runtime::{Environment, Tasks};
    use futures_util::{StreamExt, stream};
    use std::num::NonZeroU32;

    fn router() -> (WorkerRouter, RouterFeed) {
        let (router, mut feed) = WorkerRouter::fed(FedSetup {
            environment: Environment::system(),
            tasks: Tasks::root(),
            block_size: NonZeroU32::new(4).unwrap(),
            options: RouterOptions::default(),
        });
        feed.set_members(&[1, 2]);
        (router, feed)
    }

    /// Bookings, and how many requests each worker is booked with.
    fn booked(router: &WorkerRouter) -> (usize, Vec<u32>) {
        router.with_router(|router| {
            let workers = router.fleet().workers().iter();
            let requests = workers.map(|it| router.book().load(it.slot).requests);
            (router.book().len(), requests.collect())
        })
    }

    /// A call that the first worker refuses by its first item: the answer is there already when
    /// the second one is asked.
    async fn refused_late(router: &WorkerRouter) -> (RoutedCall, Arc<dyn Chooser>) {
        let request = Arc::new(EngineRequest {
            prompt_ids: (0..16).collect(),
            ..EngineRequest::default()
        });
        let context = RequestContext::default();
        let call = router.route(&request, &context).await.unwrap();
        let Policy::By(chooser) = call.policy(&request) else {
            panic!("a routed call chooses by itself")
        };
        (call, chooser)
    }

    #[tokio::test]
    async fn a_call_that_goes_elsewhere_before_its_first_item_is_booked_there_until_its_end() {
        let (router, _feed) = router();
        let (call, chooser) = refused_late(&router).await;
        let first = chooser.choose(&[]).unwrap().instance;
        let outputs = [Some(FinishReason::Length), None].map(|finish_reason| {
            Ok(EngineOutput {
                token_ids: vec![7],
                finish_reason,
                ..EngineOutput::default()
            })
        });
        let outputs = outputs.into_iter().rev();
        let mut answer = call.account(stream::iter(outputs));
        let second = chooser.choose(&[first]).unwrap().instance;
        assert_ne!(first, second);
        let expected = [1, 2].map(|worker| u32::from(worker == second.get()));
        assert_eq!(booked(&router), (1, expected.to_vec()));
        answer.next().await.unwrap().unwrap();
        assert_eq!(booked(&router), (1, expected.to_vec()));
        answer.next().await.unwrap().unwrap();
        assert_eq!(booked(&router), (0, vec![0, 0]));
    }

    #[tokio::test]
    async fn dropping_an_answer_that_went_elsewhere_ends_its_booking() {
        let (router, _feed) = router();
        let (call, chooser) = refused_late(&router).await;
        let first = chooser.choose(&[]).unwrap().instance;
        let answer = call.account(stream::pending::<Result<EngineOutput, RequestError>>());
        chooser.choose(&[first]).unwrap();
        assert_eq!(booked(&router).0, 1);
        drop(answer);
        assert_eq!(booked(&router), (0, vec![0, 0]));
    }
}
