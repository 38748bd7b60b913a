//! The simulated engine behind the engine trait: one task per data-parallel rank steps its
//! scheduler in real time and hands out what comes of it.
//!
//! What a token costs is the point here: a step's tokens go into their streams without waking
//! anybody, and all consumers are woken once when the step (or a burst of steps too short to
//! sleep for) is done. There is one timer per rank and none per request.
//!
//! Invariants
//! - A stream ends with a finish reason or with one error, also when the engine is dropped.
//! - Dropping a stream frees its sequence before the next step.

mod handoff;
mod inbox;
mod rank;
mod stream;
#[cfg(test)]
mod tests;

use crate::config::{MockModel, MockerOptions, Settings};
use crate::error::MockerError;
use crate::scheduler::{Admission, Load, admit};
use dynamo_protocols::engine::{
    Engine, EngineRequest, EngineStream, KvEventStream, RequestContext,
};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::Tasks;
use futures_core::future::BoxFuture;
use inbox::Inbox;
use rank::Rank;
use std::sync::Arc;

/// The engine.
#[derive(Debug)]
pub struct MockEngine {
    settings: Settings,
    ranks: Vec<Arc<Inbox>>,
    tasks: Tasks,
    /// Whether answers end with where their KV state is.
    hands_over: bool,
}

impl MockEngine {
    /// Starts an engine, which takes as long as its options say.
    pub async fn start(
        options: &MockerOptions,
        model: MockModel,
        tasks: &Tasks,
    ) -> Result<Self, MockerError> {
        let settings = options.settle(model)?;
        if !settings.startup_time.is_zero() {
            tokio::time::sleep(settings.startup_time).await;
        }
        let tasks = tasks.child();
        let ranks = (0..settings.ranks).map(|_| {
            let inbox = Arc::new(Inbox::new(&settings));
            let rank = Rank::new(Arc::clone(&inbox), &settings);
            tasks.spawn_until_cancelled("mock engine", rank.run());
            inbox
        });
        Ok(Self {
            ranks: ranks.collect(),
            settings,
            tasks,
            hands_over: false,
        })
    }

    /// The same, as the engine of a prefill worker: an answer ends with what a decode worker needs.
    #[must_use]
    pub fn handing_over(mut self) -> Self {
        self.hands_over = true;
        self
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> usize {
        self.settings.scheduler.block_size.get()
    }

    /// Most tokens of one sequence, prompt and output.
    pub fn context_length(&self) -> usize {
        self.settings.scheduler.context_length
    }

    /// Takes a request, on the rank it names or on the one with the fewest open requests.
    fn take(&self, request: EngineRequest) -> Result<EngineStream, RequestError> {
        if let Admission::AlreadyFinished(reason) = admit(&request, self.context_length())? {
            return Ok(stream::finished(reason));
        }
        let vocabulary = self.settings.scheduler.vocabulary;
        let hands_over = self.hands_over.then(|| {
            // As vLLM has it; what is in it is for another simulated engine, which reads none of it.
            serde_json::json!({"kv_transfer_params": {
                "do_remote_prefill": true,
                "remote_tokens": request.input_len(),
            }})
        });
        stream::open(self.rank(request.dp_rank)?, request, vocabulary, hands_over)
    }

    fn rank(&self, asked: Option<u32>) -> Result<&Arc<Inbox>, RequestError> {
        let rank = match asked {
            Some(rank) => self.ranks.get(rank as usize),
            None => self.ranks.iter().min_by_key(|rank| rank.open_requests()),
        };
        rank.ok_or_else(|| {
            let last = self.ranks.len().saturating_sub(1);
            let message = format!("this engine has data-parallel ranks 0 to {last}");
            RequestError::new(ErrorCode::InvalidRequest, message).with_param("dp_rank")
        })
    }
}

impl Engine for MockEngine {
    fn generate(
        &self,
        request: EngineRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(std::future::ready(self.take(request)))
    }

    fn load(&self) -> LoadReport {
        let mut all = Load::default();
        for rank in &self.ranks {
            all += rank.load();
        }
        all.report(&self.settings.scheduler)
    }

    fn kv_events(&self) -> Option<KvEventStream> {
        self.rank_kv_events(0)
    }

    fn ranks(&self) -> u32 {
        self.settings.ranks
    }

    fn rank_load(&self, rank: u32) -> LoadReport {
        let load = self.ranks.get(rank as usize).map(|rank| rank.load());
        load.unwrap_or_default().report(&self.settings.scheduler)
    }

    fn rank_kv_events(&self, rank: u32) -> Option<KvEventStream> {
        if !self.settings.scheduler.prefix_caching {
            return None;
        }
        let rank = self.ranks.get(rank as usize)?;
        Some(rank.subscribe())
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for rank in &self.ranks {
                rank.all_closed().await;
            }
        })
    }
}

impl Drop for MockEngine {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
