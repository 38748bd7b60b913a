//! The only place that touches llama.cpp's context: carries out what the scheduler decides.
//!
//! A slot is a llama.cpp sequence. For models with a sliding attention window each slot has a
//! second sequence, its guard, that holds the same cells: llama.cpp takes cells that fell out of
//! the window of their only sequence for free and overwrites them, full-size cache or not, and a
//! cached prefix cut back to an earlier point would then silently lack state. Cells with two
//! holders are left alone.
//!
//! Invariant: after each call a slot and its guard hold exactly the same cells, but for at most
//! `Guards::every` newest ones, which are inside any window.

use crate::config::{Guards, Settings};
use crate::error::LoadError;
use crate::model::{Model, backend};
use crate::scheduler::{Layout, Row, SlotId, SlotOp};
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::kv_cache::KvCacheConversionError;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::context::session::LlamaStateSeqFlags;
use llama_cpp_2::llama_batch::{BatchAddError, LlamaBatch};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::{DecodeError, LlamaContextLoadError};
use std::num::NonZeroU32;

/// llama.cpp did not do what the scheduler's book says it can.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("llama.cpp could not compute a batch: {0}")]
    Decode(#[from] DecodeError),
    #[error("llama.cpp could not change its KV cache: {0}")]
    Cache(#[from] KvCacheConversionError),
    #[error("a batch is larger than planned: {0}")]
    Batch(#[from] BatchAddError),
    #[error("a token id is out of range")]
    Token,
    #[error("llama.cpp gave no embedding")]
    NoEmbedding,
}

/// KV state of some positions of a sequence, in llama.cpp's own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateSegment {
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) bytes: Vec<u8>,
}

/// llama.cpp's context, and what is in it.
#[derive(Debug)]
pub(crate) struct Executor<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    /// Batch positions of the rows with output, in order of the rows.
    outputs: Vec<i32>,
    slots: Vec<Content>,
    guards: Option<Guards>,
    transfer_id: SlotId,
    layout: Layout,
}

/// Tokens that a slot holds, and how many of them its guard holds too.
#[derive(Debug, Clone, Copy, Default)]
struct Content {
    len: usize,
    guarded: usize,
}

impl<'m> Executor<'m> {
    pub(crate) fn new(model: &'m Model, settings: &Settings) -> Result<Self, LoadError> {
        let batch_tokens = settings.scheduler.max_batch_tokens;
        let cells = narrow(settings.cells);
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(cells))
            .with_n_batch(narrow(batch_tokens))
            // One piece per batch: llama.cpp then places all of its cells before it may take
            // any of them for out of the window.
            .with_n_ubatch(narrow(batch_tokens))
            .with_n_seq_max(narrow(settings.sequence_ids))
            .with_n_threads(settings.threads)
            .with_n_threads_batch(settings.threads)
            // The small sliding-window cache forgets what a reused prefix needs.
            .with_swa_full(true)
            .with_kv_unified(settings.scheduler.layout == Layout::Shared)
            .with_no_perf(true);
        let context = model.llama.new_context(backend()?, params).map_err(
            |error: LlamaContextLoadError| LoadError::Context {
                tokens: cells,
                detail: error.to_string(),
            },
        )?;
        Ok(Self {
            context,
            batch: LlamaBatch::new(batch_tokens, 1),
            outputs: Vec::new(),
            slots: vec![Content::default(); settings.scheduler.slots],
            guards: settings.guards,
            transfer_id: settings.sequence_ids - 1,
            layout: settings.scheduler.layout,
        })
    }

    /// Computes one token and forgets it: weights are in memory before the first request comes.
    pub(crate) fn warm_up(&mut self) -> Result<(), Fault> {
        self.batch.clear();
        self.batch.add(LlamaToken(0), 0, &[0], true)?;
        self.context.decode(&mut self.batch)?;
        self.context.synchronize();
        self.context.kv_cache_seq_rm(0, None, None)?;
        Ok(())
    }

    /// Carries out changes to slots, in order.
    pub(crate) fn apply(&mut self, ops: &[SlotOp]) -> Result<(), Fault> {
        for op in ops {
            match *op {
                SlotOp::Clear { slot } => self.truncate(slot, 0)?,
                SlotOp::Trim { slot, len } => self.truncate(slot, len)?,
                SlotOp::Copy { from, to, len } => self.copy(from, to, len)?,
            }
        }
        Ok(())
    }

    /// Computes a batch; [`logits`](Self::logits) are there for its rows with output.
    pub(crate) fn decode<'t>(
        &mut self,
        rows: &[Row],
        tokens: impl Fn(&Row) -> &'t [u32],
    ) -> Result<(), Fault> {
        self.batch.clear();
        self.outputs.clear();
        for row in rows {
            let slot = narrow_id(row.slot);
            for (position, &token) in row.range.clone().zip(tokens(row)) {
                let token = i32::try_from(token).map_err(|_| Fault::Token)?;
                let output = row.output && position + 1 == row.range.end;
                if output {
                    self.outputs.push(self.batch.n_tokens());
                }
                let position = narrow_id(position);
                self.batch
                    .add(LlamaToken(token), position, &[slot], output)?;
            }
        }
        self.context.decode(&mut self.batch)?;
        for row in rows {
            self.slots[row.slot].len = row.range.end;
            self.guard(row.slot, row.range.len() > 1)?;
        }
        Ok(())
    }

    /// Logits of the `index`-th row with output of the last batch.
    pub(crate) fn logits(&self, index: usize) -> &[f32] {
        self.context.get_logits_ith(self.outputs[index])
    }

    /// Copies out the state of a slot's first `len` tokens.
    pub(crate) fn export(&mut self, slot: SlotId, len: usize) -> Result<Vec<StateSegment>, Fault> {
        let window = self.guards.map_or(len, |guards| guards.window).max(1);
        let mut segments = Vec::new();
        for start in (0..len).step_by(window) {
            let end = (start + window).min(len);
            let (from, to) = (narrow_id(slot), narrow_id(self.transfer_id));
            // llama.cpp leaves out what is outside the window of a sequence's end: pieces no
            // longer than the window are whole.
            self.context
                .kv_cache_seq_cp(from, to, position(start), position(end))?;
            let bytes = self.read_state(to);
            self.context.kv_cache_seq_rm(to, None, None)?;
            segments.push(StateSegment { start, end, bytes });
        }
        Ok(segments)
    }

    /// Puts state into an empty slot; `false` if llama.cpp does not take it, and the slot is to
    /// be cleared.
    pub(crate) fn import(
        &mut self,
        slot: SlotId,
        segments: &[StateSegment],
    ) -> Result<bool, Fault> {
        let (from, to) = (narrow_id(self.transfer_id), narrow_id(slot));
        for segment in segments {
            let taken = self.write_state(from, &segment.bytes);
            if taken {
                self.context.kv_cache_seq_cp(
                    from,
                    to,
                    position(segment.start),
                    position(segment.end),
                )?;
            }
            self.slots[slot].len = segment.end;
            self.guard(slot, true)?;
            self.context.kv_cache_seq_rm(from, None, None)?;
            let positions = self.context.kv_cache_seq_pos_max(to) + 1;
            if !taken || positions != narrow_id(segment.end) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn truncate(&mut self, slot: SlotId, len: usize) -> Result<(), Fault> {
        let from = if len == 0 { None } else { position(len) };
        self.context.kv_cache_seq_rm(narrow_id(slot), from, None)?;
        if let Some(guards) = self.guards {
            let guard = narrow_id(guards.first + slot);
            self.context.kv_cache_seq_rm(guard, from, None)?;
        }
        let content = &mut self.slots[slot];
        content.len = len;
        content.guarded = content.guarded.min(len);
        Ok(())
    }

    fn copy(&mut self, from: SlotId, to: SlotId, len: usize) -> Result<(), Fault> {
        let (source, target) = (narrow_id(from), narrow_id(to));
        match self.layout {
            Layout::Shared => {
                let end = position(len);
                self.context
                    .kv_cache_seq_cp(source, target, position(0), end)?;
            }
            Layout::Isolated { .. } => {
                // Between streams llama.cpp copies whole ones only.
                self.context.kv_cache_seq_cp(source, target, None, None)?;
                self.context.kv_cache_seq_rm(target, position(len), None)?;
            }
        }
        self.slots[to].len = len;
        self.guard(to, true)
    }

    /// Lets the slot's guard hold its newest cells too, now or when enough have come together.
    fn guard(&mut self, slot: SlotId, now: bool) -> Result<(), Fault> {
        let Some(guards) = self.guards else {
            return Ok(());
        };
        let content = &mut self.slots[slot];
        let fresh = content.len - content.guarded;
        if fresh == 0 || (!now && fresh < guards.every) {
            return Ok(());
        }
        let (start, end) = (position(content.guarded), position(content.len));
        content.guarded = content.len;
        let guard = narrow_id(guards.first + slot);
        self.context
            .kv_cache_seq_cp(narrow_id(slot), guard, start, end)?;
        Ok(())
    }

    #[expect(
        unsafe_code,
        reason = "the safe call hides the bytes that are to travel"
    )]
    fn read_state(&self, sequence: i32) -> Vec<u8> {
        let flags = LlamaStateSeqFlags::empty();
        let mut bytes = vec![0; self.context.state_seq_get_size_ext(sequence, flags)];
        // SAFETY: the buffer has the size that llama.cpp asks for.
        let written = unsafe {
            self.context
                .state_seq_get_data_ext(bytes.as_mut_ptr(), sequence, flags)
        };
        bytes.truncate(written);
        bytes
    }

    #[expect(unsafe_code, reason = "the safe call takes only state of this process")]
    fn write_state(&mut self, sequence: i32, bytes: &[u8]) -> bool {
        // SAFETY: the caller has checked the bytes against the checksum and the layout (model,
        // cache types, state version) that an engine like this one gave them; llama.cpp checks
        // sizes and shapes as it reads.
        unsafe {
            self.context
                .state_seq_set_data_ext(bytes, sequence, LlamaStateSeqFlags::empty())
        }
    }
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn narrow_id(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "llama.cpp's ranges are open with None"
)]
fn position(n: usize) -> Option<u32> {
    Some(narrow(n))
}
