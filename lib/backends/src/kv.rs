//! What engines tell of their caches, in their own block ids, brought to the router.

use crate::fleet::{Fleet, Keeper};
use dynamo_engine_events::{EngineEvent, EngineEventMetrics, EventBatch, SourceItem};
use dynamo_engine_events::{StoredBlocks, Subscriber, SubscriberOptions};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::external::{ExternalBlocks, ExternalError, ExternalStored};
use dynamo_kv_router::index::TierEvent;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

/// Data-parallel ranks of one server that are believed: publishers may say anything.
const MAX_RANKS: u32 = 256;

/// What the ids of all servers' engines mean.
#[derive(Debug)]
pub(crate) struct EngineCaches {
    block_size: NonZeroU32,
    /// The block size is given, or an engine has told it.
    is_settled: bool,
    blocks: BTreeMap<WorkerKey, ExternalBlocks>,
    /// Servers whose events were refused, by reason: each is logged once, and counted each time.
    /// As many as servers times reasons.
    complained: BTreeSet<(u64, &'static str)>,
}

/// What a batch comes to.
#[derive(Debug, Default, PartialEq)]
struct Understood {
    /// For the index.
    events: Vec<TierEvent>,
    /// Why the others are not there.
    refused: Vec<ExternalError>,
    /// Blocks removed or moved that were never stored.
    unknown_ids: u64,
}

impl EngineCaches {
    pub(crate) fn new(block_size: NonZeroU32, is_settled: bool) -> Self {
        Self {
            block_size,
            is_settled,
            blocks: BTreeMap::new(),
            complained: BTreeSet::new(),
        }
    }

    /// The block size that a batch tells first, if none was known before it and it is another one.
    fn settle(&mut self, batch: &EventBatch) -> Option<NonZeroU32> {
        if self.is_settled {
            return None;
        }
        let told = batch.events.iter().find_map(|event| match event {
            EngineEvent::Stored(stored) => NonZeroU32::new(stored.block_size),
            EngineEvent::Removed(_) | EngineEvent::Cleared => None,
        })?;
        self.is_settled = true;
        let is_new = told != self.block_size;
        if is_new {
            // Those heard of before have stored nothing yet, and would expect the former size.
            self.blocks.clear();
            self.block_size = told;
        }
        is_new.then_some(told)
    }

    /// A batch as the index takes it, and why some of it is not there.
    fn understand(&mut self, worker: WorkerKey, batch: &EventBatch) -> Understood {
        let size = self.block_size;
        let blocks = self.blocks.entry(worker);
        let blocks = blocks.or_insert_with(|| ExternalBlocks::new(size));
        let before = blocks.counters().unknown_ids;
        let mut understood = Understood::default();
        for event in &batch.events {
            let told = match event {
                EngineEvent::Stored(told) => blocks.stored(&stored(told)),
                EngineEvent::Removed(told) => {
                    blocks.removed(&told.block_hashes, told.medium.as_deref())
                }
                EngineEvent::Cleared => Ok(vec![blocks.cleared()]),
            };
            match told {
                Ok(told) => understood.events.extend(told),
                Err(error) => understood.refused.push(error),
            }
        }
        understood.unknown_ids = blocks.counters().unknown_ids - before;
        understood
    }

    /// Whether this is the first time that a server's events are refused for this reason.
    fn is_news(&mut self, instance: u64, reason: &'static str) -> bool {
        self.complained.insert((instance, reason))
    }

    fn forget(&mut self, instance: u64) {
        self.blocks.retain(|worker, _| worker.instance != instance);
    }
}

/// Listens to the publisher of a server.
pub(crate) fn listen(
    fleet: &Arc<Fleet>,
    number: u64,
    options: SubscriberOptions,
    metrics: &EngineEventMetrics,
) {
    let mut items = Subscriber::start(options, &fleet.environment, &fleet.tasks, metrics);
    let hearing = Arc::clone(fleet);
    fleet
        .tasks
        .spawn_until_cancelled("backend kv events", async move {
            while let Some(item) = items.recv().await {
                hearing.hear(number, item);
            }
        });
}

impl Fleet {
    fn hear(&self, number: u64, item: SourceItem) {
        self.with_keeper(|keeper| match item {
            SourceItem::Batch(batch) => self.hear_batch(keeper, number, &batch),
            SourceItem::Lost { .. } => keeper.feed.lost(),
            SourceItem::Reset => {
                keeper.caches.forget(number);
                keeper.feed.reset(number);
            }
        });
    }

    fn hear_batch(&self, keeper: &mut Keeper, number: u64, batch: &EventBatch) {
        let label = self.backend(number).map_or("", |it| it.label.as_str());
        let worker = WorkerKey {
            instance: number,
            dp_rank: batch.dp_rank.unwrap_or(0),
        };
        if worker.dp_rank >= MAX_RANKS {
            self.metrics.kv_refused(label, "rank");
            if keeper.caches.is_news(number, "rank") {
                let rank = worker.dp_rank;
                tracing::warn!(backend = label, rank, "kv events of a rank that cannot be");
            }
            return;
        }
        if let Some(size) = keeper.caches.settle(batch) {
            tracing::info!(block_size = size, "kv events tell the size of blocks");
            self.renew_router(keeper, size);
        }
        let understood = keeper.caches.understand(worker, batch);
        for error in understood.refused {
            let reason = reason(&error);
            self.metrics.kv_refused(label, reason);
            if keeper.caches.is_news(number, reason) {
                tracing::warn!(backend = label, reason, %error, "kv event refused; more are counted");
            }
        }
        self.metrics.kv_unknown(label, understood.unknown_ids);
        keeper.feed.apply(worker, &understood.events);
    }
}

fn reason(error: &ExternalError) -> &'static str {
    match error {
        ExternalError::UnknownParent => "unknown_parent",
        ExternalError::BlockSize { .. } => "block_size",
        ExternalError::Full => "full",
        _ => "malformed",
    }
}

fn stored(told: &StoredBlocks) -> ExternalStored<'_> {
    ExternalStored {
        block_hashes: &told.block_hashes,
        parent: told.parent,
        token_ids: &told.token_ids,
        block_size: told.block_size,
        lora_name: told.lora_name.as_deref(),
        salt: told.salt.as_deref(),
        media: &told.media,
        medium: told.medium.as_deref(),
        eagle: told.eagle,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_engine_events::RemovedBlocks;

    const WORKER: WorkerKey = WorkerKey {
        instance: 1,
        dp_rank: 0,
    };

    fn batch(block_size: u32, parent: Option<u64>) -> EventBatch {
        let stored = StoredBlocks {
            block_hashes: vec![7],
            parent,
            token_ids: (0..block_size).collect(),
            block_size,
            ..StoredBlocks::default()
        };
        EventBatch {
            events: vec![EngineEvent::Stored(stored)],
            ..EventBatch::default()
        }
    }

    #[test]
    fn the_first_event_tells_the_size_of_blocks() {
        let sixteen = NonZeroU32::new(16).unwrap();
        let four = NonZeroU32::new(4).unwrap();
        let mut caches = EngineCaches::new(sixteen, false);
        assert_eq!(caches.settle(&batch(4, None)), Some(four));
        assert_eq!(caches.settle(&batch(8, None)), None);
        let understood = caches.understand(WORKER, &batch(4, None));
        assert_eq!((understood.events.len(), understood.refused.len()), (1, 0));
        let understood = caches.understand(WORKER, &batch(8, None));
        assert_eq!(understood.events, []);
        assert_eq!(reason(&understood.refused[0]), "block_size");
        assert_eq!(
            EngineCaches::new(sixteen, true).settle(&batch(4, None)),
            None
        );
    }

    #[test]
    fn who_was_heard_of_before_the_size_was_told_is_understood_all_the_same() {
        let mut caches = EngineCaches::new(NonZeroU32::new(16).unwrap(), false);
        let cleared = EventBatch {
            events: vec![EngineEvent::Cleared],
            ..EventBatch::default()
        };
        assert_eq!(caches.settle(&cleared), None);
        caches.understand(WORKER, &cleared);
        assert!(caches.settle(&batch(4, None)).is_some());
        let understood = caches.understand(WORKER, &batch(4, None));
        assert_eq!((understood.events.len(), understood.refused), (1, vec![]));
    }

    #[test]
    fn what_is_forgotten_is_no_parent_any_more() {
        let mut caches = EngineCaches::new(NonZeroU32::new(4).unwrap(), true);
        caches.understand(WORKER, &batch(4, None));
        let understood = caches.understand(WORKER, &batch(4, Some(7)));
        assert_eq!(
            understood.events.len(),
            2,
            "the id means something else now, and the former is gone"
        );
        caches.forget(1);
        let understood = caches.understand(WORKER, &batch(4, Some(7)));
        assert_eq!(reason(&understood.refused[0]), "unknown_parent");
    }

    #[test]
    fn what_was_never_stored_is_removed_without_a_change_and_counted() {
        let mut caches = EngineCaches::new(NonZeroU32::new(4).unwrap(), true);
        caches.understand(WORKER, &batch(4, None));
        let removed = |ids: &[u64]| EventBatch {
            events: vec![EngineEvent::Removed(RemovedBlocks {
                block_hashes: ids.to_vec(),
                ..RemovedBlocks::default()
            })],
            ..EventBatch::default()
        };
        let understood = caches.understand(WORKER, &removed(&[1, 2, 7]));
        assert_eq!((understood.events.len(), understood.unknown_ids), (1, 2));
        // Out of order or twice, a removal is the same.
        let understood = caches.understand(WORKER, &removed(&[7]));
        assert_eq!((understood.events.len(), understood.unknown_ids), (0, 1));
        assert_eq!(understood.refused, []);
    }

    #[test]
    fn each_trouble_of_a_server_is_told_once() {
        let mut caches = EngineCaches::new(NonZeroU32::MIN, true);
        let told = ["block_size", "block_size", "rank"].map(|reason| caches.is_news(1, reason));
        assert_eq!(told, [true, false, true]);
        assert!(caches.is_news(2, "block_size"));
    }
}
