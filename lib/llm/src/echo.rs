//! The echo engine: it answers with the prompt's own token ids, one by one.
//!
//! It needs no model and computes nothing, and is otherwise an engine like any other: it honours
//! stop conditions, continues a request that comes with generated tokens, reports what it is
//! doing, frees a sequence when its stream is dropped, and drains. That makes it the engine for
//! trying things out, for tests of everything around an engine, and for measuring what that costs.
//!
//! Token number `p` is the prompt's token `p`. The answer ends with the prompt, except that a
//! request that must not end yet (`min_tokens`, `ignore_eos`) gets the prompt again.
//!
//! An embedding is a histogram of the token ids, of unit length: texts that share words are near
//! each other, which is as much meaning as there can be without a model.

use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest, EngineStream, FinishReason,
    RequestContext, TokenId,
};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::load::{LoadReport, WorkLoad};
use futures_core::future::BoxFuture;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Length of an embedding: enough to tell short texts apart, short enough to read.
const EMBEDDING_LENGTH: usize = 64;

/// Log probability reported for every token: the next one is certain.
const CERTAIN: f32 = 0.0;

/// How the echo engine behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EchoOptions {
    /// Wait before each token.
    pub delay: Duration,
}

/// The engine.
#[derive(Debug)]
pub struct EchoEngine {
    options: EchoOptions,
    active: Arc<watch::Sender<Active>>,
}

/// What runs now.
#[derive(Debug, Clone, Copy, Default)]
struct Active {
    sequences: u32,
    tokens: u64,
}

/// One running sequence. Counted in `Active` for as long as it lives.
struct Sequence {
    request: EngineRequest,
    /// Tokens generated so far, those of earlier attempts included.
    generated: u32,
    delay: Duration,
    active: Arc<watch::Sender<Active>>,
    counted_tokens: u64,
}

// === impl EchoEngine ===

impl EchoEngine {
    /// An idle engine.
    pub fn new(options: EchoOptions) -> Self {
        Self {
            options,
            active: Arc::new(watch::Sender::new(Active::default())),
        }
    }
}

impl Engine for EchoEngine {
    fn generate(
        &self,
        request: EngineRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(async move {
            if request.prompt_ids.is_empty() {
                return Err(RequestError::new(
                    ErrorCode::InvalidRequest,
                    "the prompt has no tokens to echo",
                ));
            }
            // An answer that is the prompt cannot be made to look like anything else.
            if let Some(structured) = &request.sampling.structured {
                return Err(structured.unsupported("the echo engine"));
            }
            let sequence = Sequence::start(request, self.options.delay, &self.active);
            let outputs = stream::unfold(Some(sequence), |sequence| async move {
                let mut sequence = sequence?;
                let output = sequence.step().await;
                let next = output.finish_reason.is_none().then_some(sequence);
                Some((Ok(output), next))
            });
            Ok(Box::pin(outputs) as EngineStream)
        })
    }

    fn embed(
        &self,
        request: EmbedRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        let embeddings = request.inputs.iter().map(|ids| histogram(ids)).collect();
        Box::pin(async move {
            Ok(EmbedResponse {
                embeddings,
                prompt_tokens: None,
            })
        })
    }

    fn load(&self) -> LoadReport {
        let active = *self.active.borrow();
        LoadReport {
            scheduled: WorkLoad {
                num_decode_requests: active.sequences,
                sum_decode_kv_tokens: active.tokens,
                ..WorkLoad::default()
            },
            ..LoadReport::default()
        }
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        let mut active = self.active.subscribe();
        Box::pin(async move {
            // The sender lives as long as the engine, which this future borrows.
            drop(active.wait_for(|active| active.sequences == 0).await);
        })
    }
}

// === impl Sequence ===

impl Sequence {
    fn start(request: EngineRequest, delay: Duration, active: &Arc<watch::Sender<Active>>) -> Self {
        let counted_tokens = request.input_len() as u64;
        active.send_modify(|active| {
            active.sequences += 1;
            active.tokens += counted_tokens;
        });
        Self {
            generated: u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX),
            request,
            delay,
            active: Arc::clone(active),
            counted_tokens,
        }
    }

    async fn step(&mut self) -> EngineOutput {
        if self.delay.is_zero() {
            // Never pending by itself: without this a long echo would keep its thread.
            tokio::task::coop::consume_budget().await;
        } else {
            tokio::time::sleep(self.delay).await;
        }
        let prompt = &self.request.prompt_ids;
        let token = prompt[self.generated as usize % prompt.len()];
        let first = self.generated as usize == self.request.generated_ids.len();
        self.generated = self.generated.saturating_add(1);
        EngineOutput {
            token_ids: vec![token],
            logprobs: self.request.logprobs.map(|top| vec![certain(token, top)]),
            finish_reason: self.finish_at(token),
            cached_tokens: first.then_some(0),
            kv_transfer_params: None,
            chunk: None,
        }
    }

    fn finish_at(&self, token: TokenId) -> Option<FinishReason> {
        let stop = &self.request.stop;
        let ended = self.generated as usize >= self.request.prompt_ids.len()
            && self.generated > stop.min_tokens
            && !stop.ignore_eos;
        stop.finish_at(token, self.generated)
            .or(ended.then_some(FinishReason::EndOfSequence))
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        self.active.send_modify(|active| {
            active.sequences -= 1;
            active.tokens -= self.counted_tokens;
        });
    }
}

fn certain(token: TokenId, top: u32) -> dynamo_protocols::engine::TokenLogprobs {
    dynamo_protocols::engine::TokenLogprobs {
        logprob: CERTAIN,
        top: if top == 0 {
            Vec::new()
        } else {
            vec![(token, CERTAIN)]
        },
    }
}

fn histogram(ids: &[TokenId]) -> Vec<f32> {
    let mut counts = vec![0.0_f32; EMBEDDING_LENGTH];
    for id in ids {
        counts[*id as usize % EMBEDDING_LENGTH] += 1.0;
    }
    let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
    if length > 0.0 {
        for count in &mut counts {
            *count /= length;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::engine::StopConditions;
    use futures_util::StreamExt;

    fn request(prompt: &[TokenId], stop: StopConditions) -> EngineRequest {
        EngineRequest {
            prompt_ids: prompt.into(),
            stop,
            ..EngineRequest::default()
        }
    }

    fn up_to(max_tokens: u32) -> StopConditions {
        StopConditions {
            max_tokens,
            ..StopConditions::default()
        }
    }

    async fn run(request: EngineRequest) -> (Vec<TokenId>, Option<FinishReason>) {
        let engine = EchoEngine::new(EchoOptions::default());
        let mut outputs = engine
            .generate(request, RequestContext::default())
            .await
            .unwrap();
        let (mut ids, mut finish) = (Vec::new(), None);
        while let Some(output) = outputs.next().await {
            let output = output.unwrap();
            assert!(finish.is_none());
            ids.extend(output.token_ids);
            finish = output.finish_reason;
        }
        (ids, finish)
    }

    #[tokio::test]
    async fn the_prompt_comes_back_and_the_answer_ends_with_it() {
        let (ids, finish) = run(request(&[5, 6, 7], up_to(9))).await;
        assert_eq!(ids, [5, 6, 7]);
        assert_eq!(finish, Some(FinishReason::EndOfSequence));
    }

    #[tokio::test]
    async fn stop_conditions_are_honoured() {
        let (ids, finish) = run(request(&[5, 6, 7], up_to(2))).await;
        assert_eq!((ids.len(), finish), (2, Some(FinishReason::Length)));
        let stop = StopConditions {
            stop_ids: vec![6],
            ..up_to(9)
        };
        let (ids, finish) = run(request(&[5, 6, 7], stop)).await;
        assert_eq!((ids.len(), finish), (2, Some(FinishReason::StopToken(6))));
        let stop = StopConditions {
            ignore_eos: true,
            ..up_to(7)
        };
        let (ids, finish) = run(request(&[5, 6, 7], stop)).await;
        assert_eq!(ids, [5, 6, 7, 5, 6, 7, 5]);
        assert_eq!(finish, Some(FinishReason::Length));
    }

    #[tokio::test]
    async fn a_continued_request_ends_as_the_first_attempt_would_have() {
        let whole = run(request(&[5, 6, 7, 8], up_to(3))).await;
        for taken in 0..3 {
            let mut rest = request(&[5, 6, 7, 8], up_to(3));
            rest.generated_ids = whole.0[..taken].to_vec();
            let (ids, finish) = run(rest).await;
            assert_eq!((&ids[..], finish), (&whole.0[taken..], whole.1));
        }
    }

    #[tokio::test]
    async fn dropping_a_stream_frees_its_sequence_and_lets_a_drain_end() {
        let engine = EchoEngine::new(EchoOptions::default());
        let mut outputs = engine
            .generate(request(&[1, 2, 3], up_to(9)), RequestContext::default())
            .await
            .unwrap();
        outputs.next().await.unwrap().unwrap();
        assert_eq!(engine.load().scheduled.num_decode_requests, 1);
        assert_eq!(engine.load().scheduled.sum_decode_kv_tokens, 3);
        let mut drained = std::pin::pin!(engine.drain());
        assert!(futures_util::poll!(&mut drained).is_pending());
        drop(outputs);
        drained.await;
        assert_eq!(engine.load().scheduled, WorkLoad::default());
    }

    #[tokio::test]
    async fn an_empty_prompt_is_refused() {
        let engine = EchoEngine::new(EchoOptions::default());
        let refused = engine
            .generate(request(&[], up_to(1)), RequestContext::default())
            .await;
        assert_eq!(refused.err().unwrap().code, ErrorCode::InvalidRequest);
    }

    #[tokio::test]
    async fn embeddings_have_unit_length_and_depend_on_the_tokens() {
        let engine = EchoEngine::new(EchoOptions::default());
        let request = EmbedRequest {
            model: "m".into(),
            inputs: vec![vec![1, 2, 2], vec![3]],
            ..EmbedRequest::default()
        };
        let answer = engine
            .embed(request, RequestContext::default())
            .await
            .unwrap();
        assert_ne!(answer.embeddings[0], answer.embeddings[1]);
        for embedding in answer.embeddings {
            let length: f32 = embedding.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-6);
        }
    }
}
