//! From engine outputs to the client's choices: text, log probabilities, finish reasons, counts.
//!
//! [`Generation`] runs all choices of one request and merges them into one stream of deltas. A
//! choice that ends, by the engine or by a stop string, drops its engine stream in the same poll,
//! and thereby cancels what the engine would do next. Dropping the generation cancels all.
//!
//! Invariants
//! - Deltas of one choice are in order; each choice ends with exactly one delta that carries a
//!   finish reason, or the generation ends with an error.
//! - A stream that ends without a finish reason is a lost worker, never a short answer.
//! - What is polled next depends on what was polled before and on nothing else.

mod choice;
mod fold;

pub use choice::ChoiceDelta;
pub use fold::{Folded, FoldedChoice};

use crate::preprocess::Prepared;
use choice::{Choice, PendingOutput};
use dynamo_protocols::engine::{EngineRequest, EngineStream, RequestContext};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::Usage;
use futures_core::Stream;
use futures_util::future::try_join_all;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The running choices of one request.
pub struct Generation {
    choices: Vec<Running>,
    /// The choice to poll first: the one after the last that gave something.
    next: usize,
    choices_per_prompt: usize,
    usage: Usage,
    failed: bool,
}

/// A choice and, until it ends, the engine's stream of it.
struct Running {
    choice: Choice,
    stream: Option<EngineStream>,
    /// What is left of the engine's last output.
    pending: Option<PendingOutput>,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("choices", &self.choices.len())
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}

impl Generation {
    /// Hands every choice to the engine. Resolves when it has taken them all; a refusal of one
    /// is a refusal of the request.
    pub async fn start(prepared: Prepared, context: RequestContext) -> Result<Self, RequestError> {
        let usage = Usage::new(prepared.prompt_tokens(), 0, 0);
        let choices_per_prompt = prepared.choices_per_prompt.max(1) as usize;
        let Prepared {
            model,
            requests,
            echoes,
            text,
            extra,
            ..
        } = prepared;
        let engine = &model.engine;
        let start = |(index, request): (usize, EngineRequest)| {
            let echo = echoes
                .get(index / choices_per_prompt)
                .map_or("", String::as_str);
            let mut choice = Choice::new(index, &request, &model.tokenizer, &text, extra, echo);
            let route = context.route.clone();
            let stream = engine.generate(request, context.clone());
            async move {
                let stream = Some(stream.await?);
                if let Some(routed) = route.and_then(|route| route.routed()) {
                    choice.routed(routed);
                }
                Ok::<_, RequestError>(Running {
                    choice,
                    stream,
                    pending: None,
                })
            }
        };
        let choices = try_join_all(requests.into_iter().enumerate().map(start)).await?;
        Ok(Self {
            choices,
            next: 0,
            choices_per_prompt,
            usage,
            failed: false,
        })
    }

    /// Number of choices.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }

    /// Token counts so far; complete once the stream has ended.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Polls one choice. `None` means that it has ended already.
    fn poll_choice(
        &mut self,
        index: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<ChoiceDelta, RequestError>>> {
        let running = &mut self.choices[index];
        let Some(stream) = &mut running.stream else {
            return Poll::Ready(None);
        };
        if let Some(delta) = running.choice.take_echo() {
            return Poll::Ready(Some(Ok(delta)));
        }
        if let Some(pending) = &mut running.pending {
            let delta = running.choice.push(pending);
            return Poll::Ready(Some(Ok(self.passed_on(index, delta))));
        }
        match stream.as_mut().poll_next(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(output))) => {
                // Later choices of a prompt find the first one's blocks: that is not the client's.
                if index.is_multiple_of(self.choices_per_prompt) {
                    let cached = output.cached_tokens.unwrap_or(0);
                    self.usage.prompt_tokens_details.cached_tokens += u64::from(cached);
                }
                let mut pending = PendingOutput::new(output);
                let delta = running.choice.push(&mut pending);
                running.pending = Some(pending);
                Poll::Ready(Some(Ok(self.passed_on(index, delta))))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error))),
            Poll::Ready(None) => Poll::Ready(Some(Err(RequestError::new(
                ErrorCode::WorkerLost,
                "the worker went away before the answer was complete; send the request again",
            )))),
        }
    }
}

impl Generation {
    /// Counts a delta, and lets go what is over with it.
    fn passed_on(&mut self, index: usize, delta: ChoiceDelta) -> ChoiceDelta {
        let running = &mut self.choices[index];
        if delta.finish.is_some() {
            running.stream = None;
        }
        running.pending = running.pending.take().filter(|it| !it.is_empty());
        let usage = &mut self.usage;
        *usage = Usage::new(
            usage.prompt_tokens,
            usage.completion_tokens + u64::from(delta.tokens),
            usage.prompt_tokens_details.cached_tokens,
        );
        delta
    }
}

impl Stream for Generation {
    type Item = Result<ChoiceDelta, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let count = self.choices.len();
        let mut pending = false;
        for offset in 0..count {
            let index = (self.next + offset) % count;
            match self.poll_choice(index, cx) {
                Poll::Pending => pending = true,
                Poll::Ready(None) => {}
                Poll::Ready(Some(Ok(delta))) => {
                    self.next = (index + 1) % count;
                    return Poll::Ready(Some(Ok(delta)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.failed = true;
                    for running in &mut self.choices {
                        running.stream = None;
                    }
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }
}

#[cfg(test)]
mod tests;
