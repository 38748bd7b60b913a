//! The subscriber's side: one task per publisher, which calls it, and calls it again from where it
//! stood. Where there is a medium that both speak, the call is only for what the medium does not
//! bring: everything so far, and what was missed.
//!
//! A publisher's news come in order, and nothing comes after [`News::Gone`]: its task has ended
//! before that is said.

use super::broadcast::{ADDRESS_KEY, Broadcast, Fit, Listening, TIP_INTERVAL, fit};
use super::direct::{ChannelItem, Subscribe};
use super::log::Cursor;
use super::{News, PublisherNews};
use crate::Tasks;
use crate::component::{Instance, TypedClient};
use crate::discovery::InstanceId;
use crate::environment::RandomSource;
use bytes::Bytes;
use dynamo_protocols::engine::RequestContext;
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Wait before a publisher is called again, at first and at most. It is doubled in between: one
/// that is gone is told by discovery, so that the most need not be long.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Largest snapshot of a publisher: a million blocks of 16 bytes, four times over.
const MAX_SNAPSHOT_BYTES: usize = 64 * 1024 * 1024;

/// How long a medium may bring nothing of a publisher, which says something every
/// [`TIP_INTERVAL`]: then it is asked itself.
const MEDIUM_SILENCE: Duration = TIP_INTERVAL.saturating_mul(3);

/// Reads in a row that were to mend a gap and did not: a publisher that has so much to say is
/// asked again a little later.
const MAX_MENDS: usize = 8;

type PublisherClient = TypedClient<Subscribe, ChannelItem>;

/// How publishers are followed.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) client: Arc<PublisherClient>,
    pub(super) random: Arc<dyn RandomSource>,
    /// What brings events beside the calls, if anything does.
    pub(super) medium: Option<Arc<dyn Broadcast>>,
}

/// A publisher and its topic's address, if it has one: one that comes back under another address
/// is another one.
type Publisher = (InstanceId, Option<String>);

/// Follows every publisher that there is, until cancelled.
pub(super) async fn follow(source: Source, news: mpsc::Sender<PublisherNews>, tasks: Tasks) {
    let mut instances = source.client.untyped().watch_instances();
    let mut followed: BTreeMap<Publisher, Tasks> = BTreeMap::new();
    loop {
        let live: Vec<Publisher> = match &*instances.borrow_and_update() {
            Some(live) => live.iter().map(publisher).collect(),
            None => Vec::new(),
        };
        let gone: Vec<_> = followed
            .keys()
            .filter(|known| !live.contains(known))
            .cloned()
            .collect();
        for gone in gone {
            if let Some(tasks) = followed.remove(&gone) {
                tasks.stop().await;
            }
            let publisher = gone.0;
            let said = news.send(PublisherNews {
                publisher,
                news: News::Gone,
            });
            if said.await.is_err() {
                return;
            }
        }
        for publisher in live {
            followed
                .entry(publisher)
                .or_insert_with_key(|(id, address)| {
                    let tasks = tasks.child();
                    let following = FollowOne {
                        source: source.clone(),
                        publisher: *id,
                        address: address.clone(),
                        news: news.clone(),
                        cursor: None,
                        is_lost: false,
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

fn publisher(instance: &Instance) -> Publisher {
    let address = instance.record.metadata.get(ADDRESS_KEY);
    let address = address.and_then(|address| address.as_str());
    (instance.id, address.map(str::to_owned))
}

/// Follows one publisher.
struct FollowOne {
    source: Source,
    publisher: InstanceId,
    address: Option<String>,
    news: mpsc::Sender<PublisherNews>,
    cursor: Option<(u64, u64)>,
    /// Whether the last that was said of it is that it is out of reach.
    is_lost: bool,
}

/// How listening to a publisher went.
struct Heard {
    anything: bool,
    /// The publisher has said everything so far, and ended the answer itself.
    complete: bool,
}

impl FollowOne {
    async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            let heard = self.listen().await;
            if self.news.is_closed() {
                return;
            }
            if heard {
                retry = FIRST_RETRY;
                if !self.say(News::Lost).await {
                    return;
                }
            }
            // Many lose a publisher at the same moment: they do not come back at the same one.
            let jitter = self.source.random.next_u64() % 1000;
            sleep(retry + retry.mul_f64(jitter as f64 / 1000.0)).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Passes on what comes of the publisher, until it breaks off. Whether anything came.
    async fn listen(&mut self) -> bool {
        let (Some(medium), Some(address)) = (self.source.medium.clone(), self.address.clone())
        else {
            return self.call(false).await.anything;
        };
        match medium.listen(&address).await {
            Ok(listening) => self.listen_to_medium(listening).await,
            Err(error) => {
                tracing::debug!(publisher = %self.publisher, %error, "events come by calls alone");
                self.call(false).await.anything
            }
        }
    }

    /// Passes on what the medium brings, and reads from the publisher what it does not.
    async fn listen_to_medium(&mut self, mut listening: Box<dyn Listening>) -> bool {
        // After it listens: what happens between is in one or the other, or in both.
        let first = self.call(true).await;
        if !first.complete {
            return first.anything;
        }
        loop {
            let message = match timeout(MEDIUM_SILENCE, listening.next()).await {
                Ok(Some(message)) => message,
                Ok(None) => return true,
                // It may be the medium, or the publisher: asking it tells.
                Err(_) => {
                    if !self.call(true).await.complete {
                        return true;
                    }
                    continue;
                }
            };
            let Some(item) = read_message(&message) else {
                tracing::debug!(publisher = %self.publisher, "an event message that is none");
                continue;
            };
            if !self.take(item, &mut listening).await {
                return true;
            }
        }
    }

    /// Takes in a message of the medium; false if it cannot go on.
    async fn take(&mut self, item: ChannelItem, listening: &mut Box<dyn Listening>) -> bool {
        for mend in 0..MAX_MENDS {
            let fits = self.cursor.map_or(Fit::Gap, |stands| {
                fit(
                    stands.into(),
                    Cursor::from(item.cursor),
                    item.payloads.len(),
                )
            });
            match fits {
                Fit::Old => return true,
                Fit::Next(known) => return self.pass_on(item, known).await,
                Fit::Gap if mend == 0 && self.mend_by_replay(listening).await => {}
                Fit::Gap if !self.call(true).await.complete => return false,
                Fit::Gap => {}
            }
        }
        true
    }

    /// Passes on earlier messages that the medium remembers. Whether any was the next one.
    async fn mend_by_replay(&mut self, listening: &mut Box<dyn Listening>) -> bool {
        let mut mended = false;
        for message in listening.replay().await {
            let Some(item) = read_message(&message) else {
                continue;
            };
            let Some(stands) = self.cursor else {
                return false;
            };
            if let Fit::Next(known) = fit(stands.into(), item.cursor.into(), item.payloads.len()) {
                mended = self.pass_on(item, known).await;
            }
        }
        mended
    }

    async fn pass_on(&mut self, item: ChannelItem, known: usize) -> bool {
        let new = item.payloads.into_iter().skip(known).collect();
        let said = self.say(News::Events(new)).await;
        if said {
            self.cursor = Some(item.cursor);
        }
        said
    }

    /// Passes on what the publisher answers, until its stream ends.
    async fn call(&mut self, once: bool) -> Heard {
        let mut heard = Heard {
            anything: false,
            complete: false,
        };
        let subscribe = Subscribe {
            cursor: self.cursor,
            once,
        };
        let context = RequestContext {
            request_id: format!("events-{}", self.publisher).into(),
            ..RequestContext::default()
        };
        let called = self
            .source
            .client
            .direct(self.publisher, &subscribe, context);
        let mut items = match called.await {
            Ok(items) => items,
            Err(error) => {
                tracing::debug!(publisher = %self.publisher, %error, "cannot follow events now");
                return heard;
            }
        };
        let (mut snapshot, mut snapshot_bytes) = (Vec::new(), 0);
        while let Some(item) = items.next().await {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    tracing::debug!(publisher = %self.publisher, %error, "events broke off");
                    return heard;
                }
            };
            let news = match item.snapshot {
                // It only says that it is there.
                None if item.payloads.is_empty() && !self.is_lost => {
                    heard.anything = true;
                    continue;
                }
                None => News::Events(item.payloads),
                Some(left) => {
                    snapshot_bytes += item.payloads.iter().map(Bytes::len).sum::<usize>();
                    snapshot.extend(item.payloads.into_iter().filter(|piece| !piece.is_empty()));
                    if snapshot_bytes > MAX_SNAPSHOT_BYTES {
                        tracing::warn!(publisher = %self.publisher, "its snapshot is too large");
                        return heard;
                    }
                    if left > 0 {
                        continue;
                    }
                    snapshot_bytes = 0;
                    News::Snapshot(std::mem::take(&mut snapshot))
                }
            };
            heard.anything = true;
            if !self.say(news).await {
                return heard;
            }
            // Only now: what was not passed on is asked for again.
            self.cursor = Some(item.cursor);
        }
        // It has answered: it is in reach, also if there was nothing to tell.
        heard.complete = !self.is_lost || self.say(News::Events(Vec::new())).await;
        heard
    }

    async fn say(&mut self, news: News) -> bool {
        let publisher = self.publisher;
        self.is_lost = news == News::Lost;
        let said = self.news.send(PublisherNews { publisher, news });
        said.await.is_ok()
    }
}

/// A message of a medium, if it is one.
fn read_message(message: &[u8]) -> Option<ChannelItem> {
    let item: ChannelItem = rmp_serde::from_slice(message).ok()?;
    item.snapshot.is_none().then_some(item)
}
