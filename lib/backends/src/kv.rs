//! What engines tell of their caches, in their own block ids, brought to the router.

use crate::fleet::{Fleet, Keeper};
use dynamo_engine_events::{EngineEvent, EngineEventMetrics, EventBatch, SourceItem};
use dynamo_engine_events::{StoredBlocks, Subscriber, SubscriberOptions};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::external::{ExternalBlocks, ExternalError, ExternalStored};
use dynamo_kv_router::index::TierEvent;
use std::collections::BTreeMap;
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
}

impl EngineCaches {
    pub(crate) fn new(block_size: NonZeroU32, is_settled: bool) -> Self {
        Self {
            block_size,
            is_settled,
            blocks: BTreeMap::new(),
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
        self.block_size = told;
        is_new.then_some(told)
    }

    /// A batch as the index takes it, and why some of it is not there.
    fn understand(
        &mut self,
        worker: WorkerKey,
        batch: &EventBatch,
    ) -> (Vec<TierEvent>, Vec<ExternalError>) {
        let size = self.block_size;
        let blocks = self.blocks.entry(worker);
        let blocks = blocks.or_insert_with(|| ExternalBlocks::new(size));
        let (mut events, mut refused) = (Vec::new(), Vec::new());
        for event in &batch.events {
            let told = match event {
                EngineEvent::Stored(told) => blocks.stored(&stored(told)),
                EngineEvent::Removed(told) => {
                    blocks.removed(&told.block_hashes, told.medium.as_deref())
                }
                EngineEvent::Cleared => Ok(vec![blocks.cleared()]),
            };
            match told {
                Ok(told) => events.extend(told),
                Err(error) => refused.push(error),
            }
        }
        (events, refused)
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
            return;
        }
        if let Some(size) = keeper.caches.settle(batch) {
            tracing::info!(block_size = size, "kv events tell the size of blocks");
            self.renew_router(keeper, size);
        }
        let (events, refused) = keeper.caches.understand(worker, batch);
        for error in refused {
            self.metrics.kv_refused(label, reason(&error));
            tracing::debug!(backend = label, %error, "kv event refused");
        }
        keeper.feed.apply(worker, &events);
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
        let (events, refused) = caches.understand(WORKER, &batch(4, None));
        assert_eq!((events.len(), refused.len()), (1, 0));
        let (events, refused) = caches.understand(WORKER, &batch(8, None));
        assert_eq!(events, []);
        assert_eq!(reason(&refused[0]), "block_size");
        assert_eq!(
            EngineCaches::new(sixteen, true).settle(&batch(4, None)),
            None
        );
    }

    #[test]
    fn what_is_forgotten_is_no_parent_any_more() {
        let mut caches = EngineCaches::new(NonZeroU32::new(4).unwrap(), true);
        caches.understand(WORKER, &batch(4, None));
        let (events, _) = caches.understand(WORKER, &batch(4, Some(7)));
        assert_eq!(
            events.len(),
            2,
            "the id means something else now, and the former is gone"
        );
        caches.forget(1);
        let (_, refused) = caches.understand(WORKER, &batch(4, Some(7)));
        assert_eq!(reason(&refused[0]), "unknown_parent");
    }
}
