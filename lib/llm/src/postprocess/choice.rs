//! One choice: token ids in, text and what goes with it out. Pure.

use crate::detokenizer::{Detokenizer, DetokenizerOptions};
use crate::preprocess::{ExtraFields, TextOptions};
use dynamo_protocols::engine::{
    EngineOutput, EngineRequest, FinishReason, StopConditions, TokenId, TokenLogprobs,
};
use dynamo_protocols::openai::logprobs::{LEAST_LOGPROB, TokenLogprob, TopLogprob};
use dynamo_protocols::openai::nvext::{NvExtResponse, StopReason, WorkerIds};
use dynamo_protocols::routing::Routed;
use dynamo_protocols::tokenizer::Tokenizer;
use std::sync::Arc;

/// What one step of the engine added to a choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChoiceDelta {
    /// Which choice.
    pub index: u32,
    /// Text that may be shown now; often empty.
    pub text: String,
    /// Log probabilities of the new tokens, if asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Number of new tokens.
    pub tokens: u32,
    /// Set on the choice's last delta: the word on the wire.
    pub finish: Option<&'static str>,
    /// Facts that were asked for, on the last delta.
    pub extra: Option<NvExtResponse>,
}

/// The state of one choice.
pub(super) struct Choice {
    index: u32,
    tokenizer: Arc<dyn Tokenizer>,
    detokenizer: Detokenizer,
    stop: StopConditions,
    options: TextOptions,
    logprobs: bool,
    /// Where the next token starts in the choice's text, in characters.
    text_offset: usize,
    echo: String,
    extra: Option<NvExtResponse>,
    tells: ExtraFields,
}

/// An output of the engine that is taken one token at a time: each is an event of its own, however
/// many come at once.
pub(super) struct PendingOutput {
    ids: std::vec::IntoIter<TokenId>,
    logprobs: std::vec::IntoIter<TokenLogprobs>,
    finish_reason: Option<FinishReason>,
}

impl PendingOutput {
    pub(super) fn new(output: EngineOutput) -> Self {
        Self {
            ids: output.token_ids.into_iter(),
            logprobs: output.logprobs.unwrap_or_default().into_iter(),
            finish_reason: output.finish_reason,
        }
    }

    /// Whether all of it was taken.
    pub(super) fn is_empty(&self) -> bool {
        self.ids.as_slice().is_empty() && self.finish_reason.is_none()
    }

    fn clear(&mut self) {
        self.ids = Vec::new().into_iter();
        self.finish_reason = None;
    }
}

impl Choice {
    pub(super) fn new(
        index: usize,
        request: &EngineRequest,
        tokenizer: &Arc<dyn Tokenizer>,
        options: &TextOptions,
        extra: ExtraFields,
        echo: &str,
    ) -> Self {
        let detokenizer = Detokenizer::new(
            Arc::clone(tokenizer),
            DetokenizerOptions {
                skip_special_tokens: options.skip_special_tokens,
                stop_strings: options.stop_strings.clone(),
                include_stop_string: options.include_stop,
                min_tokens: request.stop.min_tokens,
            },
        );
        Self {
            index: u32::try_from(index).unwrap_or(u32::MAX),
            tokenizer: Arc::clone(tokenizer),
            detokenizer,
            stop: request.stop.clone(),
            options: options.clone(),
            logprobs: request.logprobs.is_some(),
            text_offset: echo.chars().count(),
            echo: echo.to_owned(),
            extra: (extra != ExtraFields::default()).then(|| NvExtResponse {
                prompt_token_ids: extra.prompt_token_ids.then(|| request.prompt_ids.to_vec()),
                completion_token_ids: extra.completion_token_ids.then(Vec::new),
                ..NvExtResponse::default()
            }),
            tells: extra,
        }
    }

    /// Takes over who serves it, as far as the client asked.
    pub(super) fn routed(&mut self, routed: Routed) {
        let Some(extra) = &mut self.extra else { return };
        extra.worker_id = self.tells.worker_id.then_some(WorkerIds {
            decode_worker_id: routed.instance,
            decode_dp_rank: routed.dp_rank,
            prefill_worker_id: routed.prefill.map(|it| it.instance),
            prefill_dp_rank: routed.prefill.map(|it| it.dp_rank),
        });
        extra.routing = routed.explanation.filter(|_| self.tells.routing);
    }

    /// The prompt as the choice's first text, once, if it is to be echoed.
    pub(super) fn take_echo(&mut self) -> Option<ChoiceDelta> {
        if self.echo.is_empty() {
            return None;
        }
        Some(ChoiceDelta {
            index: self.index,
            text: std::mem::take(&mut self.echo),
            ..ChoiceDelta::default()
        })
    }

    /// Takes the next token of an output. Tokens behind a stop string are left out.
    pub(super) fn push(&mut self, output: &mut PendingOutput) -> ChoiceDelta {
        let mut delta = ChoiceDelta {
            index: self.index,
            logprobs: self.logprobs.then(Vec::new),
            ..ChoiceDelta::default()
        };
        if let Some(id) = output.ids.next() {
            delta.tokens = 1;
            let logprob = output.logprobs.next();
            let last = output
                .finish_reason
                .filter(|_| output.ids.as_slice().is_empty());
            if !self.take_token(&mut delta, id, logprob, last) {
                output.clear();
                return delta;
            }
        }
        if output.ids.as_slice().is_empty()
            && let Some(reason) = output.finish_reason.take()
        {
            delta.text.push_str(&self.detokenizer.finish());
            let (word, why) = match reason {
                FinishReason::Length => ("length", None),
                FinishReason::StopToken(id) => ("stop", Some(StopReason::Token(id))),
                // End of sequence, and whatever else an engine may come to end well with.
                _ => ("stop", None),
            };
            self.finish(&mut delta, word, why);
        }
        delta
    }

    /// Adds a token; `last` is why the engine ended with it, if it did. Answers whether the choice
    /// goes on as far as its text is concerned.
    fn take_token(
        &mut self,
        delta: &mut ChoiceDelta,
        id: TokenId,
        logprob: Option<TokenLogprobs>,
        last: Option<FinishReason>,
    ) -> bool {
        let ids = self.extra.as_mut();
        if let Some(ids) = ids.and_then(|extra| extra.completion_token_ids.as_mut()) {
            ids.push(id);
        }
        if last.is_some_and(|reason| self.hides(id, reason)) {
            return true;
        }
        if let (Some(list), Some(logprob)) = (&mut delta.logprobs, logprob) {
            list.push(self.logprob(id, &logprob));
        }
        let decoded = self.detokenizer.push(id);
        delta.text = decoded.text;
        if let Some(stop) = decoded.stop {
            let text = self.options.stop_strings.get(stop).cloned();
            self.finish(delta, "stop", text.map(StopReason::Text));
            return false;
        }
        true
    }

    /// Whether the token only ended the choice and is no part of its text.
    fn hides(&self, id: TokenId, reason: FinishReason) -> bool {
        if self.options.include_stop {
            return false;
        }
        match reason {
            FinishReason::StopToken(stop) => id == stop,
            FinishReason::EndOfSequence => self.stop.eos_ids.contains(&id),
            _ => false,
        }
    }

    fn finish(&mut self, delta: &mut ChoiceDelta, word: &'static str, why: Option<StopReason>) {
        delta.finish = Some(word);
        delta.extra = self.extra.take();
        if self.tells.stop_reason
            && let Some(extra) = &mut delta.extra
        {
            extra.stop_reason = why;
        }
    }

    fn logprob(&mut self, id: TokenId, logprob: &TokenLogprobs) -> TokenLogprob {
        let (token, bytes) = self.written(id);
        let text_offset = self.text_offset;
        self.text_offset += token.chars().count();
        TokenLogprob {
            token,
            logprob: logprob.logprob.max(LEAST_LOGPROB),
            bytes,
            top_logprobs: logprob
                .top
                .iter()
                .map(|(id, logprob)| {
                    let (token, bytes) = self.written(*id);
                    TopLogprob {
                        token,
                        logprob: logprob.max(LEAST_LOGPROB),
                        bytes,
                    }
                })
                .collect(),
            text_offset,
        }
    }

    /// A token's text and bytes as log probabilities show them.
    fn written(&self, id: TokenId) -> (String, Option<Vec<u8>>) {
        let bytes = self.tokenizer.token_bytes(id);
        let text = if self.options.tokens_as_ids {
            format!("token_id:{id}")
        } else {
            bytes
                .as_deref()
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                .unwrap_or_default()
        };
        (text, bytes)
    }
}
