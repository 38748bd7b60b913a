//! One request as the scheduler sees it.

use super::kv_cache::BlockId;
use super::{Output, SchedulerConfig, SequenceId, Slot};
use dynamo_protocols::engine::{EngineRequest, FinishReason, StopConditions};
use dynamo_tokens::{HashContext, TokenBlocks};
use std::cmp::Reverse;
use std::num::NonZeroUsize;

/// Place in the queue: higher priority first, then answers that began on another worker (`false`), then
/// first come, first served.
pub(crate) type OrderKey = (Reverse<i32>, bool, u64);

/// A sequence that has not ended.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) order: OrderKey,
    /// Prompt and generated tokens.
    pub(crate) tokens: TokenBlocks,
    pub(crate) prompt_len: usize,
    /// Generated tokens, those of earlier attempts included.
    pub(crate) generated: u32,
    pub(crate) stop: StopConditions,
    pub(crate) seed: u64,
    pub(crate) choice: u32,
    /// Tokens with KV state; fewer than there are.
    pub(crate) computed: usize,
    /// Where that state is; room for the whole prompt once it is admitted.
    pub(crate) blocks: Vec<BlockId>,
    /// Of its blocks, those that can be found by others.
    pub(crate) published: usize,
    /// Tokens to compute in the step being planned.
    pub(crate) planned: usize,
    /// Prompt tokens found in the cache when it was first admitted.
    pub(crate) cached: Option<u32>,
    /// Another worker has computed what it comes with, and its KV state is still to be fetched.
    pub(crate) is_handed_over: bool,
    /// Whether the first output, which says what was cached, is still to come.
    pub(crate) silent: bool,
    /// Whether it has drawn a token since it was last admitted.
    pub(crate) decoding: bool,
    /// The consumer does not read: do not produce more.
    pub(crate) stalled: bool,
    /// Its last token is drawn.
    pub(crate) ended: bool,
}

impl Sequence {
    pub(crate) fn new(
        id: SequenceId,
        request: &EngineRequest,
        arrival: u64,
        block_size: NonZeroUsize,
    ) -> Self {
        let context = HashContext::of(request.lora_name.as_deref(), request.cache_salt.as_deref());
        let mut tokens = TokenBlocks::new(block_size, context);
        tokens.extend(&request.prompt_ids);
        tokens.extend(&request.generated_ids);
        Self {
            id,
            order: (
                Reverse(request.priority),
                request.generated_ids.is_empty(),
                arrival,
            ),
            tokens,
            prompt_len: request.prompt_ids.len(),
            generated: u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX),
            stop: request.stop.clone(),
            seed: request.sampling.seed,
            choice: request.choice,
            computed: 0,
            blocks: Vec::new(),
            published: 0,
            planned: 0,
            cached: None,
            is_handed_over: request.kv_transfer_params.is_some() || request.bootstrap.is_some(),
            silent: true,
            decoding: false,
            stalled: false,
            ended: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.tokens().len()
    }

    /// Known tokens without KV state: 1 in a sequence that decodes, never 0.
    pub(crate) fn remaining(&self) -> usize {
        self.len() - self.computed
    }

    pub(crate) fn was_admitted(&self) -> bool {
        self.cached.is_some()
    }

    /// Draws the token after the last one, which is computed.
    pub(crate) fn draw(&mut self, slot: Slot, config: &SchedulerConfig) -> Output {
        let token = config
            .vocabulary
            .draw(self.seed, self.choice, self.generated, &self.stop);
        self.tokens.push(token);
        self.generated += 1;
        let full = self.len() >= config.context_length;
        let finish = self.stop.finish_at(token, self.generated);
        let finish = finish.or(full.then_some(FinishReason::Length));
        self.decoding = true;
        self.ended = finish.is_some();
        Output {
            id: self.id,
            slot,
            token,
            finish,
            cached_tokens: self.cached.filter(|_| std::mem::take(&mut self.silent)),
        }
    }

    /// Starts from nothing again; answers the blocks it held, in order.
    pub(crate) fn take_blocks(&mut self) -> std::vec::IntoIter<BlockId> {
        self.computed = 0;
        self.published = 0;
        self.planned = 0;
        self.decoding = false;
        std::mem::take(&mut self.blocks).into_iter()
    }
}
