//! The engine's options, and what they come to for a given model.

use crate::error::LoadError;
use crate::model::ModelFacts;
use crate::scheduler::{Layout, SchedulerConfig};
use dynamo_config::options;
use std::num::NonZeroUsize;

/// llama.cpp knows this many sequences in one context.
const MAX_SEQUENCES: usize = 256;

/// One sequence id is kept for KV state on its way in or out.
const TRANSFER_SEQUENCES: usize = 1;

/// llama.cpp rounds the cells of a cache, or of a stream of it, up to a multiple of this.
const CELL_PADDING: usize = 256;

/// Tokens per prefill chunk in deterministic mode, and the unit of prefix reuse there. Smaller
/// reuses more and computes prompts slower, because each chunk reads all weights again; at 128
/// a chunk's arithmetic outweighs that.
const DETERMINISTIC_CHUNK: usize = 128;

/// Context in deterministic mode unless one is asked for: each sequence owns memory for all of
/// it there.
const DETERMINISTIC_CONTEXT: usize = 2_048;

options! {
    /// Options of the embedded llama.cpp engine.
    pub struct LlamacppOptions("llamacpp") {
        /// Threads that compute. Unset, one fewer than the machine has, at least one. llama.cpp's
        /// threads spin while they wait: with more threads than cores, or several engines on one
        /// machine, everything slows to a halt.
        threads: Option<u32> = None, env = "DYN_LLAMACPP_THREADS", min = 1, max = 512;
        /// Most tokens of one sequence, prompt and output. Unset, what the model was trained for,
        /// as far as the KV cache holds it.
        context_length: Option<u32> = None, env = "DYN_CONTEXT_LENGTH", min = 64;
        /// Sequences that run at once; more wait.
        max_num_seqs: u32 = 16, env = "DYN_MAX_NUM_SEQS", min = 1, max = 120;
        /// Requests that wait for a place; more are refused.
        max_queued_requests: u32 = 512, env = "DYN_MAX_QUEUED_REQUESTS", min = 1, max = 100_000;
        /// Tokens that the KV cache holds, of running sequences and cached prefixes together. A
        /// small model needs about 20 KiB for each, one of 8 billion parameters about 128 KiB.
        kv_cache_tokens: u32 = 16_384, env = "DYN_KV_CACHE_TOKENS", min = 256, max = 4_194_304;
        /// Tokens per KV block: the unit in which prefixes are found again, and announced to the
        /// router. At 64, the width of llama.cpp's attention tiles, cached prefixes do not shift
        /// the tiles of later sequences, and a sequence that runs alone computes the same bits as
        /// in an empty cache.
        kv_cache_block_size: u32 = 64, env = "DYN_KV_CACHE_BLOCK_SIZE", min = 1, max = 512;
        /// Tokens that one step works on.
        max_num_batched_tokens: u32 = 512, env = "DYN_MAX_NUM_BATCHED_TOKENS", min = 128, max = 16_384;
        /// Prompt tokens of a step in which other sequences generate: the longest they are held
        /// up is the time to compute these.
        prefill_chunk_tokens: u32 = 128, env = "DYN_PREFILL_CHUNK_TOKENS", min = 16, max = 16_384;
        /// Make every answer a function of its request alone: the same alone or under load, cold
        /// or from cache, and after a move to another worker. Sequences are then computed one
        /// after the other, so that 8 streams together are as fast as one.
        deterministic: bool = false, env = "DYN_DETERMINISTIC";
    }
}

/// What the options come to for a model.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) threads: i32,
    /// Cells asked of llama.cpp, in all.
    pub(crate) cells: usize,
    /// Sequence ids in use, those that guard cells and the one for transfer included.
    pub(crate) sequence_ids: usize,
    /// Where the sequences that guard slots' cells start; see the executor.
    pub(crate) guards: Option<Guards>,
    pub(crate) scheduler: SchedulerConfig,
}

/// Second holders of cells, needed where llama.cpp reuses cells outside the attention window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Guards {
    /// Id of the first slot's guard; the others follow.
    pub(crate) first: usize,
    /// Guard new cells at least this often, in tokens.
    pub(crate) every: usize,
    /// Tokens that the attention window spans.
    pub(crate) window: usize,
}

impl LlamacppOptions {
    /// Fits the options to a model.
    pub(crate) fn settle(&self, facts: &ModelFacts) -> Result<Settings, LoadError> {
        let parallelism = std::thread::available_parallelism().map_or(1, usize::from);
        let default_threads = parallelism.saturating_sub(1).max(1);
        let threads = self.threads.map_or(default_threads, widen);
        let block_size = NonZeroUsize::new(widen(self.kv_cache_block_size))
            .ok_or_else(|| LoadError::Options("--kv-cache-block-size must not be 0".into()))?;
        let memory = if self.deterministic {
            self.isolated(facts, block_size)?
        } else {
            self.shared(facts, block_size)?
        };
        let max_batch_tokens = widen(self.max_num_batched_tokens);
        Ok(Settings {
            threads: i32::try_from(threads).unwrap_or(1),
            cells: memory.cells,
            sequence_ids: memory.sequence_ids,
            guards: memory.guards,
            scheduler: SchedulerConfig {
                slots: memory.slots,
                max_running: widen(self.max_num_seqs).min(memory.max_running),
                max_waiting: widen(self.max_queued_requests),
                block_size,
                total_blocks: memory.total_blocks,
                max_batch_tokens,
                mixed_prefill_tokens: widen(self.prefill_chunk_tokens).min(max_batch_tokens),
                context_length: memory.context_length,
                // Recurrent state cannot be cut back to a prefix.
                reuse: !facts.recurrent,
                layout: memory.layout,
            },
        })
    }

    /// One pool of cells for all.
    fn shared(&self, facts: &ModelFacts, block_size: NonZeroUsize) -> Result<Memory, LoadError> {
        let cells = widen(self.kv_cache_tokens).next_multiple_of(CELL_PADDING);
        let context_length = self.context(facts, cells)?;
        let ids = MAX_SEQUENCES - TRANSFER_SEQUENCES;
        let slots = if facts.window.is_some() { ids / 2 } else { ids };
        let guards = facts.window.map(|window| Guards {
            first: slots,
            every: block_size.get().min(window / 2).max(1),
            window,
        });
        Ok(Memory {
            cells,
            sequence_ids: MAX_SEQUENCES,
            slots,
            max_running: slots - 1,
            guards,
            total_blocks: cells / block_size,
            context_length: context_length.min(cells / block_size * block_size.get()),
            layout: Layout::Shared,
        })
    }

    /// Cells of its own for each slot.
    fn isolated(&self, facts: &ModelFacts, block_size: NonZeroUsize) -> Result<Memory, LoadError> {
        if !DETERMINISTIC_CHUNK.is_multiple_of(block_size.get()) {
            return Err(LoadError::Options(format!(
                "--deterministic needs a --kv-cache-block-size that divides {DETERMINISTIC_CHUNK}"
            )));
        }
        let all = widen(self.kv_cache_tokens);
        let default = all.min(DETERMINISTIC_CONTEXT);
        let context_length = match self.context_length {
            Some(_) => self.context(facts, all)?,
            None => self.context(facts, default)?,
        };
        let per_slot = context_length.next_multiple_of(CELL_PADDING);
        let slots = (all / per_slot).clamp(1, MAX_SEQUENCES);
        Ok(Memory {
            cells: per_slot * slots,
            sequence_ids: slots,
            slots,
            max_running: slots,
            guards: None,
            total_blocks: slots * context_length.div_ceil(block_size.get()),
            context_length,
            layout: Layout::Isolated {
                chunk: DETERMINISTIC_CHUNK,
            },
        })
    }

    fn context(&self, facts: &ModelFacts, cells: usize) -> Result<usize, LoadError> {
        let Some(asked) = self.context_length.map(widen) else {
            return Ok(facts.context_length.min(cells));
        };
        if asked > cells {
            return Err(LoadError::Options(format!(
                "--context-length {asked} does not fit into --kv-cache-tokens {cells}; raise the latter"
            )));
        }
        Ok(asked)
    }
}

/// A layout of KV memory.
struct Memory {
    cells: usize,
    sequence_ids: usize,
    slots: usize,
    max_running: usize,
    guards: Option<Guards>,
    total_blocks: usize,
    context_length: usize,
    layout: Layout,
}

fn widen(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(window: Option<usize>) -> ModelFacts {
        ModelFacts {
            context_length: 32_768,
            window,
            recurrent: false,
            ..ModelFacts::default()
        }
    }

    #[test]
    fn the_context_is_capped_by_what_the_cache_holds() {
        let settings = LlamacppOptions::default().settle(&facts(None)).unwrap();
        assert_eq!(settings.scheduler.context_length, 16_384);
        assert_eq!(settings.scheduler.slots, 255);
        assert!(settings.threads >= 1);
    }

    #[test]
    fn a_context_larger_than_the_cache_names_the_option_to_raise() {
        let options = LlamacppOptions {
            context_length: Some(20_000),
            ..LlamacppOptions::default()
        };
        let error = options.settle(&facts(None)).unwrap_err().to_string();
        assert!(error.contains("--kv-cache-tokens"), "{error}");
    }

    #[test]
    fn a_sliding_window_halves_the_slots_and_every_id_is_known_to_llama_cpp() {
        let settings = LlamacppOptions::default()
            .settle(&facts(Some(512)))
            .unwrap();
        let guards = settings.guards.unwrap();
        assert_eq!(guards.first, settings.scheduler.slots);
        assert!(guards.first + settings.scheduler.slots < settings.sequence_ids);
        assert!(guards.every < guards.window);
    }

    #[test]
    fn deterministic_slots_share_out_the_cache() {
        let options = LlamacppOptions {
            deterministic: true,
            ..LlamacppOptions::default()
        };
        let settings = options.settle(&facts(Some(512))).unwrap();
        assert_eq!(settings.scheduler.slots, 8);
        assert_eq!(settings.scheduler.context_length, 2_048);
        assert_eq!(settings.cells, 16_384);
        let odd = LlamacppOptions {
            kv_cache_block_size: 48,
            ..options
        };
        assert!(odd.settle(&facts(None)).is_err());
    }

    #[test]
    fn the_declarations_are_sound() {
        let schema = dynamo_config::Schema::new().with::<LlamacppOptions>();
        assert!(schema.check().is_empty(), "{:?}", schema.check());
    }
}
