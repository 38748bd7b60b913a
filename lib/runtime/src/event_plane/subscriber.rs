//! The subscriber's side of the direct backend: one task per publisher, which calls it, and calls
//! it again from where it stood.
//!
//! A publisher's news come in order, and nothing comes after [`News::Gone`]: its task has ended
//! before that is said.

use super::direct::{ChannelItem, Subscribe};
use super::{News, PublisherNews};
use crate::Tasks;
use crate::component::TypedClient;
use crate::discovery::InstanceId;
use crate::environment::RandomSource;
use bytes::Bytes;
use dynamo_protocols::engine::RequestContext;
use futures_util::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Wait before a publisher is called again, at first and at most. It is doubled in between: one
/// that is gone is told by discovery, so that the most need not be long.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Largest snapshot of a publisher: a million blocks of 16 bytes, four times over.
const MAX_SNAPSHOT_BYTES: usize = 64 * 1024 * 1024;

type PublisherClient = TypedClient<Subscribe, ChannelItem>;

/// Follows every publisher that there is, until cancelled.
pub(super) async fn follow(
    client: PublisherClient,
    news: mpsc::Sender<PublisherNews>,
    tasks: Tasks,
    random: Arc<dyn RandomSource>,
) {
    let client = Arc::new(client);
    let mut instances = client.untyped().watch_instances();
    let mut followed: BTreeMap<InstanceId, Tasks> = BTreeMap::new();
    loop {
        let live: BTreeSet<InstanceId> = match &*instances.borrow_and_update() {
            Some(live) => live.iter().map(|instance| instance.id).collect(),
            None => BTreeSet::new(),
        };
        let gone: Vec<_> = followed
            .keys()
            .filter(|id| !live.contains(id))
            .copied()
            .collect();
        for publisher in gone {
            if let Some(tasks) = followed.remove(&publisher) {
                tasks.stop().await;
            }
            let said = news.send(PublisherNews {
                publisher,
                news: News::Gone,
            });
            if said.await.is_err() {
                return;
            }
        }
        for publisher in live {
            followed.entry(publisher).or_insert_with(|| {
                let tasks = tasks.child();
                let following = FollowOne {
                    client: Arc::clone(&client),
                    publisher,
                    news: news.clone(),
                    cursor: None,
                    random: Arc::clone(&random),
                };
                tasks.spawn_until_cancelled("event publisher", following.run());
                tasks
            });
        }
        if instances.changed().await.is_err() {
            return;
        }
    }
}

/// Follows one publisher.
struct FollowOne {
    client: Arc<PublisherClient>,
    publisher: InstanceId,
    news: mpsc::Sender<PublisherNews>,
    cursor: Option<(u64, u64)>,
    random: Arc<dyn RandomSource>,
}

impl FollowOne {
    async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            let heard = self.listen().await;
            if heard {
                retry = FIRST_RETRY;
                if !self.say(News::Lost).await {
                    return;
                }
            }
            // Many lose a publisher at the same moment: they do not come back at the same one.
            let jitter = self.random.next_u64() % 1000;
            sleep(retry + retry.mul_f64(jitter as f64 / 1000.0)).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Passes on what the publisher says, until its stream ends. Whether it said anything.
    async fn listen(&mut self) -> bool {
        let subscribe = Subscribe {
            cursor: self.cursor,
        };
        let context = RequestContext {
            request_id: format!("events-{}", self.publisher).into(),
            ..RequestContext::default()
        };
        let called = self.client.direct(self.publisher, &subscribe, context);
        let mut items = match called.await {
            Ok(items) => items,
            Err(error) => {
                tracing::debug!(publisher = %self.publisher, %error, "cannot follow events now");
                return false;
            }
        };
        let mut heard = false;
        let (mut snapshot, mut snapshot_bytes) = (Vec::new(), 0);
        while let Some(item) = items.next().await {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    tracing::debug!(publisher = %self.publisher, %error, "events broke off");
                    break;
                }
            };
            let news = match item.snapshot {
                None => News::Events(item.payloads),
                Some(left) => {
                    snapshot_bytes += item.payloads.iter().map(Bytes::len).sum::<usize>();
                    snapshot.extend(item.payloads.into_iter().filter(|piece| !piece.is_empty()));
                    if snapshot_bytes > MAX_SNAPSHOT_BYTES {
                        tracing::warn!(publisher = %self.publisher, "its snapshot is too large");
                        break;
                    }
                    if left > 0 {
                        continue;
                    }
                    snapshot_bytes = 0;
                    News::Snapshot(std::mem::take(&mut snapshot))
                }
            };
            heard = true;
            if !self.say(news).await {
                break;
            }
            // Only now: what was not passed on is asked for again.
            self.cursor = Some(item.cursor);
        }
        heard
    }

    async fn say(&self, news: News) -> bool {
        let publisher = self.publisher;
        let said = self.news.send(PublisherNews { publisher, news });
        said.await.is_ok()
    }
}
