//! Checks of a request that need no engine, and a running sequence's output. Pure.

use super::inbox::Open;
use super::stream::Link;
use crate::constraint::Matching;
use crate::sampling::{Draw, Sampler, Seen};
use crate::scheduler::NewSequence;
use dynamo_protocols::engine::{
    EngineOutput, EngineRequest, FinishReason, SamplingParams, StopConditions, TokenId,
};
use dynamo_protocols::{ErrorCode, RequestError};

/// Most alternatives per token: more than any client API allows.
const MAX_TOP_LOGPROBS: usize = 128;

/// What a request must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) vocab_size: usize,
    pub(super) context_length: usize,
}

/// What becomes of a request that keeps to them.
#[derive(Debug, PartialEq)]
pub(super) enum Admission {
    Generate,
    /// A moved request that has nothing left to generate.
    AlreadyFinished(EngineOutput),
}

/// Checks a request.
pub(super) fn admit(request: &EngineRequest, limits: &Limits) -> Result<Admission, RequestError> {
    if let Some(lora) = &request.lora_name {
        let message = format!("this engine serves no LoRA adapters; leave out {lora}");
        let error = RequestError::new(ErrorCode::UnsupportedParameter, message);
        return Err(error.with_param("lora_name"));
    }
    if request.prompt_ids.is_empty() {
        return Err(RequestError::invalid("prompt", "the prompt has no tokens"));
    }
    check_tokens(&request.prompt_ids, limits.vocab_size, "prompt")?;
    check_tokens(&request.generated_ids, limits.vocab_size, "prompt")?;
    check_sampling(&request.sampling)?;
    let stop = &request.stop;
    let generated = u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX);
    let last = request.generated_ids.last();
    let reason = match last.and_then(|&token| stop.finish_at(token, generated)) {
        None if stop.max_tokens == 0 => Some(FinishReason::Length),
        None if generated > 0 && request.input_len() >= limits.context_length => {
            Some(FinishReason::Length)
        }
        reason => reason,
    };
    if let Some(reason) = reason {
        return Ok(Admission::AlreadyFinished(finished(reason)));
    }
    if request.input_len() >= limits.context_length {
        let message = format!(
            "the prompt has {} tokens and leaves no room for output in a context of {}; shorten \
             it, or start the engine with a larger --context-length",
            request.input_len(),
            limits.context_length
        );
        let error = RequestError::new(ErrorCode::ContextLengthExceeded, message);
        return Err(error.with_param("prompt"));
    }
    Ok(Admission::Generate)
}

/// The only output of a moved request that has nothing left to generate.
pub(super) fn finished(reason: FinishReason) -> EngineOutput {
    EngineOutput {
        finish_reason: Some(reason),
        cached_tokens: Some(0),
        ..EngineOutput::default()
    }
}

/// llama.cpp does not check ids that are past its vocabulary.
pub(super) fn check_tokens(
    tokens: &[TokenId],
    vocab_size: usize,
    param: &str,
) -> Result<(), RequestError> {
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(token) => Err(RequestError::invalid(
            param,
            format!("token id {token} is not in the vocabulary of {vocab_size} tokens"),
        )),
    }
}

fn check_sampling(params: &SamplingParams) -> Result<(), RequestError> {
    let wrong = |name: &str, range: &str| {
        Err(RequestError::invalid(
            name,
            format!("{name} must be {range}"),
        ))
    };
    if !(params.temperature.is_finite() && params.temperature >= 0.0) {
        return wrong("temperature", "a number from 0");
    }
    if !(params.top_p > 0.0 && params.top_p <= 1.0) {
        return wrong("top_p", "above 0 and at most 1");
    }
    if !(0.0..=1.0).contains(&params.min_p) {
        return wrong("min_p", "from 0 to 1");
    }
    if !(params.repetition_penalty.is_finite() && params.repetition_penalty > 0.0) {
        return wrong("repetition_penalty", "above 0");
    }
    if !params.frequency_penalty.is_finite() || !params.presence_penalty.is_finite() {
        return wrong("frequency_penalty", "a number");
    }
    Ok(())
}

/// A sequence that generates.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) link: Link,
    params: SamplingParams,
    stop: StopConditions,
    choice: u32,
    logprobs: Option<usize>,
    seen: Seen,
    prompt_len: usize,
    /// Tokens generated, those of earlier attempts included.
    generated: u32,
    /// Whether no output was sent yet.
    first: bool,
    /// What must not come before `min_tokens`.
    stop_tokens: Vec<TokenId>,
    form: Form,
    /// Logits of a token that is to be drawn when its mask is there.
    held: Option<Vec<f32>>,
    pub(super) open: Open,
}

/// What the answer has to look like from here on.
#[derive(Debug)]
enum Form {
    Free,
    /// The mask of the next token is there.
    Known(Box<Matching>),
    /// It is being worked out.
    Away,
}

impl Generation {
    /// Takes a request apart: what the scheduler needs, and the rest.
    pub(super) fn new(
        request: &EngineRequest,
        matching: Option<Box<Matching>>,
        link: Link,
        open: Open,
    ) -> (NewSequence, Self) {
        let params = request.sampling.clone();
        let seen = Seen::new(&params, &request.prompt_ids, &request.generated_ids);
        let stop = request.stop.clone();
        let mut stop_tokens = stop.stop_ids.clone();
        if !stop.ignore_eos {
            stop_tokens.extend(&stop.eos_ids);
        }
        let generation = Self {
            link,
            seen,
            choice: request.choice,
            logprobs: request
                .logprobs
                .map(|top| (top as usize).min(MAX_TOP_LOGPROBS)),
            generated: u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX),
            prompt_len: request.prompt_ids.len(),
            first: true,
            stop_tokens,
            params,
            stop,
            form: matching.map_or(Form::Free, Form::Known),
            held: None,
            open,
        };
        let sequence = NewSequence {
            prompt: request.prompt_ids.to_vec(),
            generated: request.generated_ids.clone(),
            salt: request.cache_salt.clone().filter(|salt| !salt.is_empty()),
            priority: request.priority,
        };
        (sequence, generation)
    }

    /// Whether the next token can be drawn: its mask is there, or it needs none.
    pub(super) fn can_draw(&self) -> bool {
        !matches!(self.form, Form::Away)
    }

    /// Keeps the logits until the mask is there.
    pub(super) fn hold(&mut self, logits: &[f32]) {
        self.held = Some(logits.to_vec());
    }

    /// Whether logits are kept.
    pub(super) fn holds(&self) -> bool {
        self.held.is_some()
    }

    /// The mask is there; the logits that were kept for it, if there were any.
    pub(super) fn mask_is_there(&mut self, matching: Box<Matching>) -> Option<Vec<f32>> {
        self.form = Form::Known(matching);
        self.held.take()
    }

    /// The constraint, to have its next mask worked out.
    pub(super) fn send_form_away(&mut self) -> Option<Box<Matching>> {
        match std::mem::replace(&mut self.form, Form::Away) {
            Form::Known(matching) => Some(matching),
            form => {
                self.form = form;
                None
            }
        }
    }

    /// Draws the next token and says whether the sequence ends with it. `len` is the length of
    /// the sequence before it.
    pub(super) fn draw(
        &mut self,
        sampler: &mut Sampler,
        logits: &[f32],
        len: usize,
        context_length: usize,
    ) -> Result<(TokenId, EngineOutput), RequestError> {
        let allowed = match &self.form {
            Form::Known(matching) => matching.next(),
            Form::Free | Form::Away => None,
        };
        let forbidden = if self.generated < self.stop.min_tokens {
            self.stop_tokens.as_slice()
        } else {
            &[]
        };
        let token = sampler.sample(
            logits,
            &Draw {
                params: &self.params,
                choice: self.choice,
                position: u64::from(self.generated),
                seen: &self.seen,
                forbidden,
                allowed,
            },
        );
        let is_complete = match &mut self.form {
            Form::Known(matching) => matching.take(token)?,
            Form::Free | Form::Away => false,
        };
        self.seen.count(&self.params, token);
        self.generated += 1;
        let context_ends = len + 1 >= context_length;
        let finish_reason = match self.stop.finish_at(token, self.generated) {
            // A complete answer is no answer that was cut off.
            None | Some(FinishReason::Length) if is_complete => Some(FinishReason::EndOfSequence),
            None if context_ends => Some(FinishReason::Length),
            reason => reason,
        };
        let output = EngineOutput {
            token_ids: vec![token],
            logprobs: self
                .logprobs
                .map(|top| vec![sampler.logprobs(logits, token, top)]),
            finish_reason,
            ..EngineOutput::default()
        };
        Ok((token, output))
    }

    /// Whether the next output is the first one, which says what came from the cache.
    pub(super) fn take_first(&mut self) -> bool {
        std::mem::take(&mut self.first)
    }

    /// Prompt tokens among the first `found` tokens of the sequence.
    pub(super) fn cached(&self, found: usize) -> u32 {
        u32::try_from(found.min(self.prompt_len)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        vocab_size: 100,
        context_length: 8,
    };

    fn request(prompt: &[u32], generated: &[u32]) -> EngineRequest {
        EngineRequest {
            prompt_ids: prompt.into(),
            generated_ids: generated.to_vec(),
            stop: StopConditions {
                max_tokens: 3,
                eos_ids: vec![1],
                ..StopConditions::default()
            },
            ..EngineRequest::default()
        }
    }

    fn code(request: &EngineRequest) -> ErrorCode {
        admit(request, &LIMITS).unwrap_err().code
    }

    #[test]
    fn what_cannot_be_computed_is_refused_by_name() {
        assert_eq!(code(&request(&[], &[])), ErrorCode::InvalidRequest);
        assert_eq!(code(&request(&[100], &[])), ErrorCode::InvalidRequest);
        assert_eq!(
            code(&request(&[2; 8], &[])),
            ErrorCode::ContextLengthExceeded
        );
        let lora = EngineRequest {
            lora_name: Some("a".into()),
            ..request(&[2], &[])
        };
        assert_eq!(code(&lora), ErrorCode::UnsupportedParameter);
        let mut cold = request(&[2], &[]);
        cold.sampling.temperature = f32::NAN;
        assert_eq!(code(&cold), ErrorCode::InvalidRequest);
        assert_eq!(
            admit(&request(&[2; 7], &[]), &LIMITS),
            Ok(Admission::Generate)
        );
    }

    #[test]
    fn a_moved_request_that_was_done_finishes_as_it_would_have() {
        let reason = |request: &EngineRequest| match admit(request, &LIMITS) {
            Ok(Admission::AlreadyFinished(output)) => output.finish_reason,
            _ => None,
        };
        let ended = request(&[2], &[5, 1]);
        assert_eq!(reason(&ended), Some(FinishReason::EndOfSequence));
        let used_up = request(&[2], &[5, 6, 7]);
        assert_eq!(reason(&used_up), Some(FinishReason::Length));
        let context_full = request(&[2; 6], &[5, 6]);
        assert_eq!(reason(&context_full), Some(FinishReason::Length));
        assert_eq!(reason(&request(&[2], &[5])), None);
    }
}
