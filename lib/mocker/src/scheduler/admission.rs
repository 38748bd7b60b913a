//! Which requests can be served at all, and who gets a place next.

use super::step::Work;
use super::{Scheduler, Slot};
use dynamo_protocols::engine::{EngineRequest, FinishReason};
use dynamo_protocols::{ErrorCode, RequestError};

/// What becomes of a request that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It generates.
    Generate,
    /// A moved request that has nothing left to generate.
    AlreadyFinished(FinishReason),
}

/// Checks a request against the most tokens a sequence may have.
pub fn admit(request: &EngineRequest, context_length: usize) -> Result<Admission, RequestError> {
    if request.prompt_ids.is_empty() {
        return Err(RequestError::invalid("prompt", "the prompt has no tokens"));
    }
    // Simulated tokens mean nothing: no form could be seen in them.
    if let Some(structured) = &request.sampling.structured {
        return Err(structured.unsupported("the simulated engine"));
    }
    let stop = &request.stop;
    let generated = u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX);
    let last = request.generated_ids.last();
    let full = request.input_len() >= context_length;
    if let Some(reason) = last.and_then(|&token| stop.finish_at(token, generated)) {
        return Ok(Admission::AlreadyFinished(reason));
    }
    if stop.max_tokens == 0 || (generated > 0 && full) {
        return Ok(Admission::AlreadyFinished(FinishReason::Length));
    }
    if full {
        let message = format!(
            "the prompt has {} tokens and leaves no room for output in a context of \
             {context_length}; shorten it, or start the engine with a larger --max-model-len or \
             --num-gpu-blocks-override",
            request.input_len(),
        );
        let error = RequestError::new(ErrorCode::ContextLengthExceeded, message);
        return Err(error.with_param("prompt"));
    }
    Ok(Admission::Generate)
}

impl Scheduler {
    /// Gives places to waiting sequences, in order, while there are places, memory and room in
    /// the step.
    pub(super) fn admit_waiting(&mut self, work: &mut Work) {
        while work.budget > 0 && self.running.len() < self.config.max_running {
            let Some(slot) = self.waiting.first() else {
                return;
            };
            if !self.place(slot, work.budget) {
                return;
            }
            self.running.push(slot);
            self.plan(slot, work);
            self.compute(slot, work);
        }
    }

    /// Takes memory for the whole of a sequence, reusing what is cached of it; `false` if there
    /// is too little, or if it has to be computed at once and the budget is too small.
    fn place(&mut self, slot: Slot, budget: usize) -> bool {
        let Some(sequence) = self.sequences[slot as usize].as_mut() else {
            return false;
        };
        let block_size = self.config.block_size.get();
        let (cache, len) = (&mut self.cache, sequence.len());
        let mut blocks = Vec::with_capacity(len.div_ceil(block_size) + 1);
        if self.config.prefix_caching {
            // The last token is always computed, for what follows it.
            let reusable = &sequence.tokens.blocks()[..(len - 1) / block_size];
            let found = reusable.iter().map_while(|it| cache.find(it.sequence_hash));
            blocks.extend(found);
        }
        let cached = blocks.len() * block_size;
        let arrives = sequence.is_handed_over;
        if !self.config.chunked_prefill && !arrives && len - cached > budget {
            return false;
        }
        let woken = blocks.iter().filter(|block| cache.is_idle(**block)).count();
        let fresh = len.div_ceil(block_size) - blocks.len();
        // Alone, a sequence needs nobody to leave room.
        let spare = match self.running.is_empty() {
            true => 0,
            false => self.config.watermark_blocks,
        };
        if woken + fresh + spare > cache.available() {
            return false;
        }
        for block in &blocks {
            cache.hold(*block);
        }
        self.waiting.remove(sequence, slot);
        sequence.published = blocks.len();
        sequence.computed = cached;
        blocks.extend((0..fresh).map_while(|_| cache.allocate()));
        sequence.blocks = blocks;
        let of_prompt = cached.min(sequence.prompt_len);
        if sequence.cached.is_none() {
            sequence.cached = Some(u32::try_from(of_prompt).unwrap_or(u32::MAX));
            self.found.prompt_tokens += sequence.prompt_len as u64;
            self.found.cached_tokens += of_prompt as u64;
        }
        if std::mem::take(&mut sequence.is_handed_over) {
            // All but the last token, from which the next one is computed.
            sequence.computed = len - 1;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::engine::StopConditions;

    fn request(prompt: usize, generated: &[u32]) -> EngineRequest {
        EngineRequest {
            prompt_ids: vec![5; prompt].into(),
            generated_ids: generated.to_vec(),
            stop: StopConditions {
                max_tokens: 3,
                stop_ids: vec![9],
                ..StopConditions::default()
            },
            ..EngineRequest::default()
        }
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let code = |request: &EngineRequest| admit(request, 8).unwrap_err().code;
        assert_eq!(code(&request(0, &[])), ErrorCode::InvalidRequest);
        assert_eq!(code(&request(8, &[])), ErrorCode::ContextLengthExceeded);
        assert_eq!(admit(&request(7, &[]), 8).unwrap(), Admission::Generate);
    }

    #[test]
    fn a_moved_request_that_was_done_finishes_as_it_would_have() {
        let reason = |request: &EngineRequest| admit(request, 8).unwrap();
        let finished = Admission::AlreadyFinished;
        assert_eq!(
            reason(&request(1, &[9])),
            finished(FinishReason::StopToken(9))
        );
        assert_eq!(reason(&request(1, &[1; 3])), finished(FinishReason::Length));
        assert_eq!(reason(&request(6, &[1; 2])), finished(FinishReason::Length));
        assert_eq!(reason(&request(1, &[1; 2])), Admission::Generate);
    }
}
