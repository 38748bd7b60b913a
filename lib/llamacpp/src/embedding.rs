//! Embeddings: a small context of its own, made when the first one is asked for.
//!
//! Models that say how they pool (embedding models) pool inside llama.cpp. For others the
//! embedding is the mean of the last layer's states over all tokens. Work is cut into pieces, so
//! that sequences that generate are held up by one piece at a time.

use crate::error::LoadError;
use crate::executor::Fault;
use crate::model::{Model, ModelFacts, backend};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::{LlamaContextParams, LlamaPoolingType};
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::token::LlamaToken;
use std::num::NonZeroU32;

/// Tokens per piece. llama.cpp computes the logits of every token of an embedding context, which
/// costs memory for a whole vocabulary per token.
const PIECE_TOKENS: usize = 128;

/// Longest input, unless the model's context is shorter. Pooling inside llama.cpp needs it in
/// one piece.
const MAX_INPUT_TOKENS: usize = 2_048;

/// Longest input for a model.
pub(crate) fn max_input_tokens(facts: &ModelFacts) -> usize {
    facts.context_length.min(MAX_INPUT_TOKENS)
}

/// A request in work.
#[derive(Debug)]
pub(crate) struct EmbedJob {
    inputs: Vec<Vec<u32>>,
    /// Tokens of the first unfinished input that are computed.
    computed: usize,
    sum: Vec<f64>,
    done: Vec<Vec<f32>>,
}

impl EmbedJob {
    /// A job; its inputs are neither empty nor longer than [`max_input_tokens`].
    pub(crate) fn new(inputs: Vec<Vec<u32>>) -> Self {
        Self {
            inputs,
            computed: 0,
            sum: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.len() == self.inputs.len()
    }

    /// The embeddings, in order of the inputs.
    pub(crate) fn into_embeddings(self) -> Vec<Vec<f32>> {
        self.done
    }
}

/// The context that embeds.
#[derive(Debug)]
pub(crate) struct Embedder<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    pooled: bool,
    piece: usize,
}

impl<'m> Embedder<'m> {
    pub(crate) fn new(model: &'m Model, threads: i32) -> Result<Self, LoadError> {
        let pooled = model.facts.pooling;
        let longest = max_input_tokens(&model.facts);
        let piece = if pooled { longest } else { PIECE_TOKENS };
        let tokens = u32::try_from(longest).unwrap_or(u32::MAX);
        let piece_tokens = u32::try_from(piece).unwrap_or(u32::MAX);
        let pooling = if pooled {
            LlamaPoolingType::Unspecified
        } else {
            LlamaPoolingType::None
        };
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(tokens))
            .with_n_batch(piece_tokens)
            .with_n_ubatch(piece_tokens)
            .with_n_seq_max(1)
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_embeddings(true)
            .with_pooling_type(pooling);
        let context = model
            .llama
            .new_context(backend()?, params)
            .map_err(|error| LoadError::Context {
                tokens,
                detail: error.to_string(),
            })?;
        Ok(Self {
            context,
            batch: LlamaBatch::new(piece, 1),
            pooled,
            piece,
        })
    }

    /// Computes the next piece of a job that is not done.
    pub(crate) fn advance(&mut self, job: &mut EmbedJob) -> Result<(), Fault> {
        let Some(input) = job.inputs.get(job.done.len()) else {
            return Ok(());
        };
        let end = (job.computed + self.piece).min(input.len());
        self.batch.clear();
        for (position, &token) in (job.computed..end).zip(&input[job.computed..end]) {
            let token = i32::try_from(token).map_err(|_| Fault::Token)?;
            let position = i32::try_from(position).map_err(|_| Fault::Token)?;
            self.batch.add(LlamaToken(token), position, &[0], true)?;
        }
        self.context.decode(&mut self.batch)?;
        let finished = end == input.len();
        self.collect(job, end)?;
        job.computed = end;
        if finished {
            job.done.push(unit_length(&job.sum));
            job.sum.clear();
            job.computed = 0;
            self.context.clear_kv_cache();
        }
        Ok(())
    }

    /// Adds the piece's states up. A unit vector's direction is the same for sum and mean.
    fn collect(&self, job: &mut EmbedJob, end: usize) -> Result<(), Fault> {
        let rows = if self.pooled { 1 } else { end - job.computed };
        for row in 0..rows {
            let row = i32::try_from(row).map_err(|_| Fault::Token)?;
            let state = if self.pooled {
                self.context.embeddings_seq_ith(row).ok()
            } else {
                self.context.embeddings_ith(row).ok()
            };
            let state = state.ok_or(Fault::NoEmbedding)?;
            job.sum.resize(state.len(), 0.0);
            for (sum, &value) in job.sum.iter_mut().zip(state) {
                *sum += f64::from(value);
            }
        }
        Ok(())
    }
}

fn unit_length(vector: &[f64]) -> Vec<f32> {
    let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|x| (x * scale) as f32).collect()
}
