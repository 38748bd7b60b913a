//! The engine's options, and what they come to for a given model.

use crate::error::MockerError;
use crate::scheduler::{Preemption, SchedulerConfig, Vocabulary};
use crate::timing::{Profile, Speedup, Timing};
use dynamo_config::{choices, options};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

choices! {
    /// Who gives way when KV memory runs out.
    pub enum PreemptionMode {
        /// The request that got its place last.
        Lifo = "lifo",
        /// The request that got its place first.
        Fifo = "fifo",
    }
}

options! {
    /// Options of the simulated engine.
    pub struct MockerOptions("mocker") {
        /// KV blocks of the simulated engine, of each data-parallel rank.
        num_gpu_blocks_override: u32 = 16_384, env = "DYN_MOCKER_NUM_GPU_BLOCKS", min = 1, max = 100_000_000;
        /// Tokens per KV block.
        block_size: u32 = 64, env = "DYN_MOCKER_BLOCK_SIZE", min = 1, max = 65_536;
        /// Most tokens of one request, prompt and output. Unset, what the model was trained for,
        /// as far as the KV blocks hold it.
        max_model_len: Option<u32> = None, env = "DYN_MOCKER_MAX_MODEL_LEN", min = 2;
        /// Requests that run at once, in each data-parallel rank; more wait.
        max_num_seqs: u32 = 256, env = "DYN_MOCKER_MAX_NUM_SEQS", min = 1, max = 1_000_000;
        /// Tokens that one step computes, in each data-parallel rank.
        max_num_batched_tokens: u32 = 8_192, env = "DYN_MOCKER_MAX_NUM_BATCHED_TOKENS", min = 1, max = 100_000_000;
        /// Requests that wait for a place, in each data-parallel rank; more are refused.
        max_queued_requests: u32 = 8_192, env = "DYN_MOCKER_MAX_QUEUED_REQUESTS", min = 1, max = 1_000_000;
        /// Find the blocks of earlier prompts again, and announce them to the router.
        enable_prefix_caching: bool = true, env = "DYN_MOCKER_ENABLE_PREFIX_CACHING";
        /// Spread long prompts over several steps. Without it no request is longer than
        /// `--max-num-batched-tokens`.
        enable_chunked_prefill: bool = true, env = "DYN_MOCKER_ENABLE_CHUNKED_PREFILL";
        /// Who gives way when the KV blocks run out, and is computed again later.
        preemption_mode: PreemptionMode = PreemptionMode::Lifo, env = "DYN_MOCKER_PREEMPTION_MODE";
        /// Share of the KV blocks that new requests leave free for running ones to grow into.
        watermark: f64 = 0.01, env = "DYN_MOCKER_WATERMARK", min = 0.0, max = 1.0;
        /// How many times faster than the engine it simulates; 0 takes no time at all.
        speedup_ratio: f64 = 1.0, env = "DYN_MOCKER_SPEEDUP_RATIO", min = 0.0, max = 1e9;
        /// How many times faster beside that when it decodes; 0 takes no time at all.
        decode_speedup_ratio: f64 = 1.0, env = "DYN_MOCKER_DECODE_SPEEDUP_RATIO", min = 0.0, max = 1e9;
        /// Data-parallel ranks: independent engines behind one worker.
        data_parallel_size: u32 = 1, env = "DYN_MOCKER_DATA_PARALLEL_SIZE", min = 1, max = 1_024;
        /// How long the engine takes to start.
        startup_time: Duration = Duration::ZERO, env = "DYN_MOCKER_STARTUP_TIME", max = Duration::from_secs(86_400);
        /// A JSON file with measured step times, in place of the built-in formulas.
        planner_profile_data: Option<PathBuf> = None, env = "DYN_MOCKER_PLANNER_PROFILE_DATA";
        /// Seed of the drawn tokens, mixed with each request's own. Workers with the same seed
        /// draw the same tokens, so that a request can move between them unnoticed.
        mocker_seed: u64 = 0, env = "DYN_MOCKER_SEED";
    }
}

choices! {
    /// What the simulated workers do of a request.
    pub enum DisaggregationMode {
        /// Prompt and answer.
        Agg = "agg" | "aggregated",
        /// The prompt, for decode workers.
        Prefill = "prefill",
        /// The answer, to prompts of prefill workers.
        Decode = "decode",
    }
}

options! {
    /// How many simulated workers a process runs, and where they serve.
    pub struct MockFleetOptions("mock_fleet") {
        /// The endpoint that the workers serve. What is missing of it is `--namespace`, `backend`
        /// (`prefill` for prefill workers) and `generate`.
        endpoint: String = "dyn://".to_owned(), env = "DYN_MOCKER_ENDPOINT";
        /// What the workers do of a request. Prefill and decode workers need each other.
        disaggregation_mode: DisaggregationMode = DisaggregationMode::Agg, env = "DYN_MOCKER_DISAGGREGATION_MODE";
        /// Workers to run in this process, each with an address and a discovery record of its own.
        num_workers: u32 = 1, env = "DYN_MOCKER_NUM_WORKERS", min = 1, max = MAX_WORKERS;
        /// Time between the starts of two workers.
        stagger_delay: Duration = Duration::ZERO, env = "DYN_MOCKER_STAGGER_DELAY", max = Duration::from_secs(3_600);
    }
}

/// Workers of one process: what discovery in a folder and the file descriptors of a process take.
pub const MAX_WORKERS: u32 = 4_000;

/// What the engine should know of the model that it pretends to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MockModel {
    /// Tokens of its vocabulary.
    pub vocab_size: Option<u32>,
    /// Tokens it was trained for.
    pub context_length: Option<u32>,
}

/// What the options come to for a model.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bounds of each rank's scheduler.
    pub scheduler: SchedulerConfig,
    /// How long steps take.
    pub timing: Timing,
    /// Data-parallel ranks.
    pub ranks: u32,
    /// Requests that wait in each rank.
    pub max_waiting: usize,
    /// How long the engine takes to start.
    pub startup_time: Duration,
}

impl MockerOptions {
    /// Fits the options to a model. Reads the profile, if there is one.
    pub fn settle(&self, model: MockModel) -> Result<Settings, MockerError> {
        let block_size = NonZeroUsize::new(widen(self.block_size))
            .ok_or_else(|| MockerError::Options("--block-size must not be 0".to_owned()))?;
        let profile = self.planner_profile_data.as_deref().map(read_profile);
        let speedup = Speedup {
            all: self.speedup_ratio,
            decode: self.decode_speedup_ratio,
        };
        let total_blocks = widen(self.num_gpu_blocks_override);
        let preemption = match self.preemption_mode {
            PreemptionMode::Lifo => Preemption::NewestFirst,
            PreemptionMode::Fifo => Preemption::OldestFirst,
        };
        Ok(Settings {
            scheduler: SchedulerConfig {
                block_size,
                total_blocks,
                watermark_blocks: (self.watermark * total_blocks as f64) as usize,
                max_running: widen(self.max_num_seqs),
                max_batched_tokens: widen(self.max_num_batched_tokens),
                context_length: self.context(model, total_blocks * block_size.get())?,
                prefix_caching: self.enable_prefix_caching,
                chunked_prefill: self.enable_chunked_prefill,
                preemption,
                vocabulary: Vocabulary::new(model.vocab_size, self.mocker_seed),
            },
            timing: Timing::new(profile.transpose()?.map(Arc::new), speedup),
            ranks: self.data_parallel_size,
            max_waiting: widen(self.max_queued_requests),
            startup_time: self.startup_time,
        })
    }

    /// Most tokens of a sequence: one that is let in must be able to run alone.
    fn context(&self, model: MockModel, cache_tokens: usize) -> Result<usize, MockerError> {
        let asked = self.max_model_len.or(model.context_length).map(widen);
        let batch = widen(self.max_num_batched_tokens);
        let mut context = asked.map_or(cache_tokens, |asked| asked.min(cache_tokens));
        if !self.enable_chunked_prefill {
            context = context.min(batch);
        }
        let Some(asked) = self.max_model_len.map(widen) else {
            return Ok(context);
        };
        if asked > cache_tokens {
            return Err(MockerError::Options(format!(
                "--max-model-len {asked} does not fit into {} blocks of {} tokens; raise \
                 --num-gpu-blocks-override",
                self.num_gpu_blocks_override, self.block_size
            )));
        }
        if asked > context {
            return Err(MockerError::Options(format!(
                "--max-model-len {asked} is more than --max-num-batched-tokens {batch}; raise the \
                 latter, or leave out --no-enable-chunked-prefill"
            )));
        }
        Ok(context)
    }
}

fn read_profile(path: &Path) -> Result<Profile, MockerError> {
    let text = std::fs::read_to_string(path).map_err(|source| MockerError::ProfileUnreadable {
        path: path.to_owned(),
        source,
    })?;
    Profile::parse(&text).map_err(|error| MockerError::ProfileInvalid {
        path: path.to_owned(),
        detail: error.to_string(),
    })
}

fn widen(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(options: &MockerOptions, model: Option<u32>) -> Result<usize, String> {
        let model = MockModel {
            context_length: model,
            ..MockModel::default()
        };
        let settings = options.settle(model).map_err(|error| error.to_string());
        settings.map(|settings| settings.scheduler.context_length)
    }

    #[test]
    fn the_declarations_are_sound() {
        let schema = dynamo_config::Schema::new()
            .with::<MockerOptions>()
            .with::<MockFleetOptions>();
        assert!(schema.check().is_empty(), "{:?}", schema.check());
    }

    #[test]
    fn the_context_is_what_is_asked_for_or_what_the_model_and_the_cache_take() {
        let options = MockerOptions::default();
        assert_eq!(context(&options, None), Ok(16_384 * 64));
        assert_eq!(context(&options, Some(4_096)), Ok(4_096));
        let asked = MockerOptions {
            max_model_len: Some(5_000),
            ..options.clone()
        };
        assert_eq!(context(&asked, Some(4_096)), Ok(5_000));
        let whole = MockerOptions {
            enable_chunked_prefill: false,
            ..options
        };
        assert_eq!(context(&whole, None), Ok(8_192));
    }

    #[test]
    fn a_context_that_cannot_be_names_the_option_to_change() {
        let asked = MockerOptions {
            max_model_len: Some(10_000),
            ..MockerOptions::default()
        };
        let small = MockerOptions {
            num_gpu_blocks_override: 100,
            ..asked.clone()
        };
        let error = context(&small, None).unwrap_err();
        assert!(error.contains("--num-gpu-blocks-override"), "{error}");
        let whole = MockerOptions {
            enable_chunked_prefill: false,
            ..asked
        };
        let error = context(&whole, None).unwrap_err();
        assert!(error.contains("--max-num-batched-tokens"), "{error}");
    }

    #[test]
    fn a_profile_that_is_missing_or_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.json");
        let options = MockerOptions {
            planner_profile_data: Some(path.clone()),
            ..MockerOptions::default()
        };
        let error = context(&options, None).unwrap_err();
        assert!(error.contains("profile.json"), "{error}");
        std::fs::write(&path, "{}").unwrap();
        let error = context(&options, None).unwrap_err();
        assert!(error.contains("neither"), "{error}");
        std::fs::write(&path, r#"{"prefill_isl":[1],"prefill_ttft_ms":[2]}"#).unwrap();
        assert!(context(&options, None).is_ok());
    }
}
