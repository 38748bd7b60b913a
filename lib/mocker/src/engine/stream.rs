//! One sequence's consumer: it makes outputs of drawn tokens, one for each.
//!
//! Invariant: the consumer sees a finish reason or exactly one error, then the end.

use super::handoff::{Receiver, handoff};
use super::inbox::{Drawn, Inbox, lost};
use crate::scheduler::{SequenceId, Vocabulary};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    EngineOutput, EngineRequest, EngineStream, FinishReason, TokenId, TokenLogprobs,
};
use futures_core::Stream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Tokens that a consumer may lag behind before its sequence pauses: a few bursts of steps.
const STREAM_CAPACITY: usize = 64;

/// Most alternatives per token: more than any client API allows.
const MAX_TOP_LOGPROBS: u32 = 128;

#[derive(Debug)]
struct OutputStream {
    receiver: Receiver<Drawn>,
    inbox: Arc<Inbox>,
    id: SequenceId,
    logprobs: Option<u32>,
    vocabulary: Vocabulary,
    finished: bool,
    /// Said with the last output: where its KV state is.
    hands_over: Option<serde_json::Value>,
}

/// Submits a request; answers the stream of its outputs.
pub(super) fn open(
    inbox: &Arc<Inbox>,
    request: EngineRequest,
    vocabulary: Vocabulary,
    hands_over: Option<serde_json::Value>,
) -> Result<EngineStream, RequestError> {
    let (sender, receiver) = handoff(STREAM_CAPACITY);
    let logprobs = request.logprobs.map(|top| top.min(MAX_TOP_LOGPROBS));
    let id = inbox.submit(request, sender)?;
    Ok(Box::pin(OutputStream {
        receiver,
        inbox: Arc::clone(inbox),
        id,
        logprobs,
        vocabulary,
        finished: false,
        hands_over,
    }))
}

/// The stream of a request that has nothing left to generate.
pub(super) fn finished(reason: FinishReason) -> EngineStream {
    let output = EngineOutput {
        finish_reason: Some(reason),
        cached_tokens: Some(0),
        ..EngineOutput::default()
    };
    Box::pin(futures_util::stream::iter([Ok(output)]))
}

impl OutputStream {
    fn logprobs(&self, token: TokenId, top: u32) -> TokenLogprobs {
        let logprob = self.vocabulary.logprob();
        let alternatives = self.vocabulary.alternatives(token, top).into_iter();
        TokenLogprobs {
            logprob,
            top: alternatives.map(|token| (token, logprob)).collect(),
        }
    }
}

impl Stream for OutputStream {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let Some(received) = std::task::ready!(self.receiver.poll(context)) else {
            self.finished = true;
            return Poll::Ready(Some(Err(lost())));
        };
        if received.made_room {
            self.inbox.signal(self.id);
        }
        let drawn = received.item;
        self.finished = drawn.finish.is_some();
        Poll::Ready(Some(Ok(EngineOutput {
            token_ids: vec![drawn.token],
            logprobs: self
                .logprobs
                .map(|top| vec![self.logprobs(drawn.token, top)]),
            finish_reason: drawn.finish,
            cached_tokens: drawn.cached_tokens,
            chunk: None,
            kv_transfer_params: drawn.finish.and_then(|_| self.hands_over.take()),
        })))
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        if !self.finished {
            self.receiver.close();
            self.inbox.signal(self.id);
        }
    }
}
