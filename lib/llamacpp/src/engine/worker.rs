//! The engine's thread: takes commands, steps, sends outputs.

use super::inbox::{Command, Open, Shared, Submission};
use super::request::Generation;
use super::transfer::{Exported, Imported};
use crate::config::{LlamacppOptions, Settings};
use crate::constraint::{Masks, Vocabulary};
use crate::embedding::{EmbedJob, Embedder};
use crate::error::LoadError;
use crate::executor::{Executor, Fault};
use crate::model::{Model, ModelFacts};
use crate::sampling::Sampler;
use crate::scheduler::{Row, Scheduler, SequenceId};
use dynamo_protocols::engine::{EngineOutput, TokenId};
use dynamo_protocols::kv::Block;
use dynamo_protocols::{ErrorCode, RequestError};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use tokio::sync::oneshot;

/// What the engine has to know once it has started.
pub(super) struct Startup {
    pub(super) facts: ModelFacts,
    pub(super) settings: Settings,
    pub(super) vocabulary: Vocabulary,
}

type Started = Result<Startup, LoadError>;
type EmbedReply = oneshot::Sender<Result<Vec<Vec<f32>>, RequestError>>;

/// What the thread owns.
struct Worker<'m> {
    shared: &'m Shared,
    model: &'m Model,
    settings: Settings,
    scheduler: Scheduler,
    executor: Executor<'m>,
    sampler: Sampler,
    masks: Masks,
    generations: BTreeMap<SequenceId, Generation>,
    /// Of requests that ended in this step. They count as open until the step is reported, so
    /// that whoever saw all of them end also sees the places they left.
    ended: Vec<Open>,
    embedder: Option<Embedder<'m>>,
    embeds: VecDeque<(EmbedJob, EmbedReply)>,
}

/// The thread: loads, says so, works until it is told to stop.
pub(super) fn main(
    shared: &Arc<Shared>,
    path: &Path,
    options: &LlamacppOptions,
    ready: &SyncSender<Started>,
) {
    let loaded = Model::load(path, false).and_then(|model| {
        let settings = options.settle(&model.facts)?;
        Ok((model, settings))
    });
    let (model, settings) = match loaded {
        Ok(loaded) => loaded,
        Err(error) => return answer(ready, Err(error)),
    };
    let started = Worker::new(shared, &model, &settings);
    let mut worker = match started {
        Ok(worker) => worker,
        Err(error) => return answer(ready, Err(error)),
    };
    log_start(&model.facts, &settings);
    worker.report();
    let startup = Startup {
        facts: model.facts.clone(),
        settings,
        vocabulary: match model.facts.pooling {
            true => Vocabulary::default(),
            false => Vocabulary::read(&model),
        },
    };
    answer(ready, Ok(startup));
    let ended = catch_unwind(AssertUnwindSafe(|| worker.run()));
    let error = match ended {
        Ok(Ok(())) => RequestError::new(ErrorCode::Cancelled, "the engine was shut down"),
        Ok(Err(fault)) => {
            tracing::error!(%fault, "the engine failed");
            failed(&fault)
        }
        Err(_) => {
            tracing::error!("the engine panicked");
            RequestError::new(
                ErrorCode::EngineFailed,
                "the engine failed; its log says why",
            )
        }
    };
    worker.end(&error);
}

fn answer(ready: &SyncSender<Started>, started: Started) {
    // Nobody waits only if the loading side panicked.
    drop(ready.send(started));
}

fn log_start(facts: &ModelFacts, settings: &Settings) {
    let scheduler = &settings.scheduler;
    tracing::info!(
        architecture = facts.architecture,
        threads = settings.threads,
        context_length = scheduler.context_length,
        kv_cache_tokens = settings.cells,
        max_num_seqs = scheduler.max_running,
        layout = ?scheduler.layout,
        "llama.cpp engine is ready"
    );
}

fn failed(fault: &Fault) -> RequestError {
    RequestError::new(ErrorCode::EngineFailed, fault.to_string())
}

impl<'m> Worker<'m> {
    fn new(
        shared: &'m Arc<Shared>,
        model: &'m Model,
        settings: &Settings,
    ) -> Result<Self, LoadError> {
        let mut executor = Executor::new(model, settings)?;
        executor.warm_up().map_err(|fault| LoadError::Context {
            tokens: u32::try_from(settings.cells).unwrap_or(u32::MAX),
            detail: fault.to_string(),
        })?;
        let woken = Arc::clone(shared);
        Ok(Self {
            shared,
            model,
            masks: Masks::start(move || woken.wake())?,
            scheduler: Scheduler::new(settings.scheduler.clone()),
            settings: settings.clone(),
            executor,
            sampler: Sampler::default(),
            generations: BTreeMap::new(),
            ended: Vec::new(),
            embedder: None,
            embeds: VecDeque::new(),
        })
    }

    /// Works until told to stop. An error is one that no sequence can be blamed for.
    fn run(&mut self) -> Result<(), Fault> {
        while !self.shared.is_stopping() {
            self.shared.step();
            for command in self.shared.take() {
                self.take(command)?;
            }
            self.take_masks();
            self.look_at_streams();
            let plan = self.scheduler.plan();
            self.executor.apply(&plan.ops)?;
            for rows in &plan.batches {
                self.decode(rows);
            }
            let embedded = self.embed();
            self.report();
            if plan.is_empty() && !embedded {
                self.shared.sleep(!self.generations.is_empty());
            }
        }
        Ok(())
    }

    fn take(&mut self, command: Command) -> Result<(), Fault> {
        match command {
            Command::Generate(submission) => {
                let Submission {
                    request,
                    matching,
                    link,
                    open,
                } = *submission;
                let (sequence, generation) = Generation::new(&request, matching, link, open);
                match self.scheduler.submit(sequence) {
                    Ok(id) => {
                        self.generations.insert(id, generation);
                    }
                    Err(_) => generation.link.fail(RequestError::new(
                        ErrorCode::RateLimited,
                        "too many requests wait for this engine; try again later",
                    )),
                }
            }
            Command::Embed { inputs, reply } => {
                self.embeds.push_back((EmbedJob::new(inputs), reply));
            }
            Command::Export { blocks, reply } => {
                let exported = self.export(&blocks)?;
                drop(reply.send(Ok(exported)));
            }
            Command::Import { prefix, reply } => {
                let count = self.import(&prefix)?;
                drop(reply.send(count));
            }
        }
        Ok(())
    }

    /// Ends sequences whose consumer is gone, pauses those whose consumer lags.
    fn look_at_streams(&mut self) {
        let mut gone = Vec::new();
        for (&id, generation) in &self.generations {
            if generation.link.is_closed() {
                gone.push(id);
            } else {
                self.scheduler.set_stalled(id, generation.link.is_full());
                self.scheduler.set_held(id, generation.holds());
            }
        }
        for id in gone {
            self.finish(id);
        }
    }

    /// Lets go of a sequence that ended, and of its request.
    fn finish(&mut self, id: SequenceId) {
        self.scheduler.finish(id);
        if let Some(generation) = self.generations.remove(&id) {
            self.ended.push(generation.open);
        }
    }

    /// Computes one batch. If llama.cpp cannot, its sequences fail and the others go on.
    fn decode(&mut self, rows: &[Row]) {
        let scheduler = &self.scheduler;
        let decoded = self.executor.decode(rows, |row| scheduler.tokens(row));
        if let Err(fault) = decoded {
            tracing::error!(%fault, sequences = rows.len(), "a batch failed");
            for row in rows {
                self.scheduler.discard(row.id);
                if let Some(generation) = self.generations.remove(&row.id) {
                    generation.link.fail(failed(&fault));
                    self.ended.push(generation.open);
                }
            }
            return;
        }
        let mut output = 0;
        for row in rows {
            self.scheduler.computed(row);
            if row.output {
                self.sample(row, output);
                output += 1;
            }
        }
    }

    /// Draws from the logits of a row, or keeps them if the sequence's mask is not there yet:
    /// nobody else waits for it.
    fn sample(&mut self, row: &Row, output: usize) {
        let id = row.id;
        let waits = |generation: &Generation| !generation.can_draw();
        if self.generations.get(&id).is_some_and(waits) {
            self.take_masks();
        }
        // One that lost its memory while it waited may have been drawn from what was kept: then
        // what was computed again is behind its end.
        if row.range.end != self.scheduler.len_of(id) {
            return;
        }
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        let logits = self.executor.logits(output);
        if !generation.can_draw() {
            generation.hold(logits);
            return self.scheduler.set_held(id, true);
        }
        let len = self.scheduler.len_of(id);
        let context_length = self.settings.scheduler.context_length;
        let drawn = generation.draw(&mut self.sampler, logits, len, context_length);
        self.drawn(id, drawn);
    }

    /// Hands out the token that was drawn, and goes on or ends with it.
    fn drawn(&mut self, id: SequenceId, drawn: Result<(TokenId, EngineOutput), RequestError>) {
        let Some(generation) = self.generations.get_mut(&id) else {
            return;
        };
        let (token, mut output) = match drawn {
            Ok(drawn) => drawn,
            Err(error) => return self.fail(id, error),
        };
        if generation.take_first() {
            output.cached_tokens = Some(generation.cached(self.scheduler.cached_tokens(id)));
        }
        let finished = output.finish_reason.is_some();
        generation.link.send(output);
        if finished {
            return self.finish(id);
        }
        if let Some(matching) = generation.send_form_away() {
            self.masks.ask(id, matching);
        }
        self.scheduler.push(id, token);
    }

    /// Takes the masks that are there, and draws where one was waited for.
    fn take_masks(&mut self) {
        while let Some((id, matching)) = self.masks.take() {
            // The sequence may have ended meanwhile.
            let Some(generation) = self.generations.get_mut(&id) else {
                continue;
            };
            let matching = match matching {
                Ok(matching) => matching,
                Err(error) => {
                    self.fail(id, error);
                    continue;
                }
            };
            if let Some(logits) = generation.mask_is_there(matching) {
                let len = self.scheduler.len_of(id);
                let context_length = self.settings.scheduler.context_length;
                let drawn = generation.draw(&mut self.sampler, &logits, len, context_length);
                self.drawn(id, drawn);
            }
        }
    }

    /// Ends a sequence with an error of its own.
    fn fail(&mut self, id: SequenceId, error: RequestError) {
        self.scheduler.finish(id);
        if let Some(generation) = self.generations.remove(&id) {
            generation.link.fail(error);
            self.ended.push(generation.open);
        }
    }

    /// Computes a piece of the oldest embedding job; `false` if there is none.
    fn embed(&mut self) -> bool {
        // A job that nobody waits for any more is not computed.
        while self
            .embeds
            .front()
            .is_some_and(|(_, reply)| reply.is_closed())
        {
            self.embeds.pop_front();
        }
        let Some((mut job, reply)) = self.embeds.pop_front() else {
            return false;
        };
        if !job.is_done()
            && let Err(error) = self.embed_piece(&mut job)
        {
            // Half an input may be in its cache.
            self.embedder = None;
            drop(reply.send(Err(error)));
            return true;
        }
        if job.is_done() {
            drop(reply.send(Ok(job.into_embeddings())));
        } else {
            self.embeds.push_front((job, reply));
        }
        true
    }

    fn embed_piece(&mut self, job: &mut EmbedJob) -> Result<(), RequestError> {
        if self.embedder.is_none() {
            let embedder = Embedder::new(self.model, self.settings.threads);
            let embedder = embedder
                .map_err(|error| RequestError::new(ErrorCode::EngineFailed, error.to_string()))?;
            self.embedder = Some(embedder);
        }
        match &mut self.embedder {
            Some(embedder) => embedder.advance(job).map_err(|fault| failed(&fault)),
            None => Ok(()),
        }
    }

    fn export(&mut self, blocks: &[Block]) -> Result<Exported, Fault> {
        self.executor.apply(&self.scheduler.take_ops())?;
        let hashes: Vec<u64> = blocks.iter().map(|block| block.sequence_hash).collect();
        let Some(prefix) = self.scheduler.cached_prefix(&hashes) else {
            return Ok(Exported::default());
        };
        let segments = self.executor.export(prefix.slot, prefix.tokens.len())?;
        Ok(Exported {
            blocks: prefix.blocks,
            tokens: prefix.tokens,
            salt: prefix.salt,
            segments,
        })
    }

    fn import(&mut self, prefix: &Imported) -> Result<Result<usize, RequestError>, Fault> {
        let held = self.scheduler.cached_prefix(&prefix.hashes);
        let held = held.map_or(0, |held| held.blocks);
        if held == prefix.hashes.len() {
            return Ok(Ok(held));
        }
        let reserved = self
            .scheduler
            .reserve_import(&prefix.tokens, prefix.salt.clone());
        let Some(slot) = reserved else {
            return Ok(Ok(held));
        };
        self.executor.apply(&self.scheduler.take_ops())?;
        let filled = self.executor.import(slot, &prefix.segments)?;
        self.scheduler.finish_import(slot, filled);
        self.executor.apply(&self.scheduler.take_ops())?;
        if filled {
            return Ok(Ok(prefix.hashes.len()));
        }
        Ok(Err(RequestError::invalid(
            "state",
            "llama.cpp does not take the KV state; it was made by another build",
        )))
    }

    fn report(&mut self) {
        if let Some(events) = self.scheduler.take_events() {
            self.shared.publish(events);
        }
        let load = self.scheduler.load();
        self.shared
            .report(self.scheduler.waiting(), self.embeds.len(), load);
        self.ended.clear();
    }

    /// Nothing hangs: every request there is, and every one to come, gets the error.
    fn end(&mut self, error: &RequestError) {
        let late = self.shared.end(error);
        for (_, generation) in std::mem::take(&mut self.generations) {
            generation.link.fail(error.clone());
        }
        for (_, reply) in self.embeds.drain(..) {
            drop(reply.send(Err(error.clone())));
        }
        for command in late {
            // Replies that are dropped are answered with the same error.
            if let Command::Generate(submission) = command {
                submission.link.fail(error.clone());
            }
        }
    }
}
