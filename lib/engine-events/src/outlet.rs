//! The bounded channel to the router.
//!
//! Invariant: what is dropped because the router is slow is told as lost, before anything that
//! comes after it.

use crate::event::SourceItem;
use crate::metrics::EngineEventMetrics;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Items that wait for the router: ten seconds of an engine that publishes each of a hundred
/// steps per second. A router that is further behind is better told that it missed something.
const MAX_WAITING_ITEMS: usize = 1024;

/// The sending side.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: Sender<SourceItem>,
    metrics: EngineEventMetrics,
    /// A reset that did not fit.
    owed_reset: bool,
    /// First number and count of the messages after it that did not fit.
    owed_loss: Option<(u64, u64)>,
}

impl Outlet {
    pub(crate) fn new(metrics: EngineEventMetrics) -> (Self, Receiver<SourceItem>) {
        let (sender, receiver) = channel(MAX_WAITING_ITEMS);
        let outlet = Self {
            sender,
            metrics,
            owed_reset: false,
            owed_loss: None,
        };
        (outlet, receiver)
    }

    /// Resolves when nobody listens any more.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + 'static {
        let sender = self.sender.clone();
        async move { sender.closed().await }
    }

    /// Hands on an item, waiting for room.
    pub(crate) async fn send(&mut self, item: SourceItem) {
        while self.owes() {
            self.pay().await;
        }
        // Nobody listens: the task is about to be stopped.
        drop(self.sender.send(item).await);
    }

    /// Hands on an item if there is room; else it is owed as lost.
    pub(crate) fn offer(&mut self, item: SourceItem) {
        while let Some(owed) = self.owed() {
            if self.sender.try_send(owed).is_err() {
                self.owe(&item);
                return;
            }
            self.paid();
        }
        if let Err(refused) = self.sender.try_send(item) {
            self.owe(&refused.into_inner());
        }
    }

    pub(crate) fn owes(&self) -> bool {
        self.owed_reset || self.owed_loss.is_some()
    }

    /// Tells one thing that is owed when there is room. Can be dropped at any point.
    pub(crate) async fn pay(&mut self) {
        let Some(owed) = self.owed() else {
            return;
        };
        if let Ok(permit) = self.sender.reserve().await {
            permit.send(owed);
        }
        self.paid();
    }

    fn owed(&self) -> Option<SourceItem> {
        if self.owed_reset {
            return Some(SourceItem::Reset);
        }
        let (first, count) = self.owed_loss?;
        Some(SourceItem::Lost { first, count })
    }

    /// What [`Self::owed`] gave is told.
    fn paid(&mut self) {
        if self.owed_reset {
            self.owed_reset = false;
        } else {
            self.owed_loss = None;
        }
    }

    fn owe(&mut self, item: &SourceItem) {
        let (first, count) = match item {
            SourceItem::Batch(batch) => {
                self.metrics.dropped();
                (batch.sequence, 1)
            }
            SourceItem::Lost { first, count } => (*first, *count),
            SourceItem::Reset => {
                // What was lost before is void with everything else.
                self.owed_reset = true;
                self.owed_loss = None;
                return;
            }
        };
        // Numbers follow each other: one stretch holds all.
        let (owed_first, owed_count) = self.owed_loss.unwrap_or((first, 0));
        self.owed_loss = Some((owed_first, owed_count.saturating_add(count)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventBatch;

    fn batch(sequence: u64) -> SourceItem {
        SourceItem::Batch(EventBatch {
            sequence,
            ..EventBatch::default()
        })
    }

    fn drain(receiver: &mut Receiver<SourceItem>) -> Vec<SourceItem> {
        std::iter::from_fn(|| receiver.try_recv().ok()).collect()
    }

    #[tokio::test]
    async fn a_slow_router_is_told_what_it_missed_before_what_follows() {
        let full = MAX_WAITING_ITEMS as u64;
        let (mut outlet, mut receiver) = Outlet::new(EngineEventMetrics::new());
        for sequence in 0..full + 5 {
            outlet.offer(batch(sequence));
        }
        outlet.offer(SourceItem::Lost {
            first: full + 5,
            count: 3,
        });
        assert_eq!(drain(&mut receiver).len(), MAX_WAITING_ITEMS);
        outlet.offer(batch(full + 8));
        let missed = SourceItem::Lost {
            first: full,
            count: 8,
        };
        assert_eq!(drain(&mut receiver), [missed, batch(full + 8)]);
    }

    #[tokio::test]
    async fn a_reset_is_never_dropped_and_voids_the_losses_before_it() {
        let full = MAX_WAITING_ITEMS as u64;
        let (mut outlet, mut receiver) = Outlet::new(EngineEventMetrics::new());
        for sequence in 0..=full {
            outlet.offer(batch(sequence));
        }
        outlet.offer(SourceItem::Reset);
        outlet.offer(batch(0));
        drain(&mut receiver);
        assert!(outlet.owes());
        outlet.send(batch(1)).await;
        assert!(!outlet.owes());
        let lost = SourceItem::Lost { first: 0, count: 1 };
        assert_eq!(drain(&mut receiver), [SourceItem::Reset, lost, batch(1)]);
    }
}
