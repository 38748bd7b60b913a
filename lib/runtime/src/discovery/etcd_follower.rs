//! Follows everybody's entries in etcd while somebody watches: the shell around [`Mirror`], which
//! decides who is alive.
//!
//! With each connection everything is read, and what changed since is watched from that revision
//! on. Nothing is resumed: so compaction, an empty etcd and one restored from a backup need no cases
//! of their own. What is below the prefix and is no record is left out, and counted.

use super::etcd::{PREFIX, Shared, WITHDRAWN};
use super::etcd_mirror::{Entry, Mirror};
use super::view::DiscoveryEvent;
use super::{ProcessId, ProcessRecord};
use crate::etcd::wire::{Event, KeyValue};
use crate::etcd::{Attempts, CallError, Dialer, Link, Meaning};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::{Instant, sleep, sleep_until};

/// Longest part of a foreign key that is logged.
const SHOWN_KEY: usize = 128;

/// How often in a row everything is read again because what followed was compacted away meanwhile.
/// Administrators compact every few minutes: more than that is a fault, and waits like one.
const RELISTINGS: u32 = 5;

/// Follows while somebody watches, until cancelled.
pub(super) async fn follow(shared: Arc<Shared>) {
    let mut watchers = shared.feed.watchers();
    while watchers.wait_for(|count| *count > 0).await.is_ok() {
        tokio::select! {
            biased;
            _ = watchers.wait_for(|count| *count == 0) => {}
            () = Box::pin(follow_while_watched(&shared)) => {}
        }
        // Nobody looks from here on: what is known becomes outdated.
        shared.feed.forget();
        shared.metrics.set_stale(false);
    }
}

/// One who follows.
struct Follower<'a> {
    shared: &'a Shared,
    mirror: Mirror,
    attempts: Attempts,
    /// It was said that etcd is out of reach.
    is_troubled: bool,
}

async fn follow_while_watched(shared: &Shared) {
    let mut dialer = Dialer::new(
        Arc::clone(&shared.settings),
        shared.environment.clone(),
        shared.tasks.clone(),
    );
    let mut follower = Follower {
        shared,
        mirror: Mirror::new(shared.timings.grace),
        attempts: Attempts::default(),
        is_troubled: false,
    };
    let mut was_connected = false;
    loop {
        let error = match dialer.dial().await {
            Ok(link) => {
                if was_connected {
                    shared.metrics.figures().reconnects.inc();
                }
                was_connected = true;
                follower.mirror(&link).await
            }
            Err(error) => error,
        };
        follower.failed(&error).await;
    }
}

// === impl Follower ===

impl Follower<'_> {
    /// Mirrors etcd over one connection, until it fails.
    async fn mirror(&mut self, link: &Link) -> CallError {
        let timings = &self.shared.timings;
        let probing = probe(link, self.shared);
        tokio::pin!(probing);
        let mut relistings = 0;
        loop {
            let watching = async {
                let (entries, revision) = link.list(PREFIX.as_bytes(), timings.call).await?;
                let from = revision.saturating_add(1);
                let watch = link.watch(PREFIX.as_bytes(), from, timings.call).await?;
                Ok::<_, CallError>((entries, watch))
            };
            let (entries, mut watch) = match watching.await {
                Ok(watching) => watching,
                Err(error) if error.meaning() == Meaning::Compacted && relistings < RELISTINGS => {
                    relistings += 1;
                    continue;
                }
                Err(error) => return error,
            };
            self.listed(&entries);
            loop {
                let wakes_at = self.mirror.wakes_at();
                tokio::select! {
                    biased;
                    error = &mut probing => return error,
                    news = watch.next() => match news {
                        Ok(events) => {
                            relistings = 0;
                            self.changed(&events);
                        }
                        // What happened since is gone: everything is read again.
                        Err(error)
                            if error.meaning() == Meaning::Compacted && relistings < RELISTINGS =>
                        {
                            relistings += 1;
                            break;
                        }
                        Err(error) => return error,
                    },
                    () = sleep_until(wakes_at.unwrap_or_else(Instant::now)), if wakes_at.is_some() => {
                        let passed = self.mirror.pass(Instant::now());
                        self.publish(passed);
                    }
                }
            }
        }
    }

    fn listed(&mut self, entries: &[KeyValue]) {
        let read = entries.iter().filter_map(|kv| self.read(kv));
        let entries: BTreeMap<ProcessId, Entry> = read.collect();
        let event = self.mirror.listed(entries, Instant::now());
        self.attempts.succeeded();
        if self.is_troubled {
            self.is_troubled = false;
            tracing::info!("etcd is back, waiting for processes to announce themselves again");
        }
        self.publish([event]);
    }

    fn changed(&mut self, events: &[Event]) {
        let changes: Vec<DiscoveryEvent> = events
            .iter()
            .filter_map(|event| {
                let kv = event.kv.as_ref()?;
                let entry = match event.kind {
                    Event::DELETE => None,
                    _ => self.read(kv),
                };
                match entry {
                    Some((id, entry)) => Some(self.mirror.wrote(id, entry)),
                    // A key that holds no record any more holds no process.
                    None => self.mirror.gone(process(&kv.key)?),
                }
            })
            .collect();
        self.publish(changes);
    }

    /// Reads an entry, and counts it if it is none.
    fn read(&self, kv: &KeyValue) -> Option<(ProcessId, Entry)> {
        let read = process(&kv.key).and_then(|id| Some((id, entry(&kv.value)?)));
        if read.is_none() {
            self.shared.metrics.figures().skipped.inc();
            let key = String::from_utf8_lossy(&kv.key[..kv.key.len().min(SHOWN_KEY)]);
            tracing::warn!(%key, "an entry in etcd is no record of a process, leaving it out");
        }
        read
    }

    fn publish(&self, events: impl IntoIterator<Item = DiscoveryEvent>) {
        for event in events {
            self.shared.feed.publish(event);
        }
        self.shared.metrics.set_stale(self.mirror.is_stale());
    }

    async fn failed(&mut self, error: &CallError) {
        let event = self.mirror.lost(Instant::now());
        self.publish([event]);
        let endpoints = self.shared.settings.endpoints.len();
        let random = self.shared.environment.random.next_u64();
        let Some(pause) = self.attempts.failed(endpoints, random) else {
            return;
        };
        if !self.is_troubled {
            self.is_troubled = true;
            tracing::warn!(
                endpoints = %self.shared.settings.shown(), %error,
                "etcd is out of reach, keeping the last known view and trying again: {}", self.shared.settings.hint(error)
            );
        }
        sleep(pause).await;
    }
}

/// Ends when etcd does not answer any more.
async fn probe(link: &Link, shared: &Shared) -> CallError {
    loop {
        sleep(shared.timings.probe_every).await;
        if let Err(error) = link.probe(PREFIX.as_bytes(), shared.timings.probe).await {
            return error;
        }
    }
}

/// The process whose key this is.
fn process(key: &[u8]) -> Option<ProcessId> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    let id = ProcessId::new(u64::from_str_radix(text, 16).ok()?)?;
    // Written in one way only: two keys are two processes.
    (id.to_string() == text).then_some(id)
}

/// What a value says.
fn entry(value: &[u8]) -> Option<Entry> {
    if value == WITHDRAWN {
        return Some(Entry::Withdrawn);
    }
    // A list would be read as a record's fields in their order.
    if !value.starts_with(b"{") {
        return None;
    }
    let record: ProcessRecord = serde_json::from_slice(value).ok()?;
    record.validate().ok()?;
    Some(Entry::Record(Arc::new(record)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::etcd::key;

    #[test]
    fn only_the_key_that_a_process_writes_is_its_key() {
        let id = ProcessId::new(0xabc).unwrap();
        assert_eq!(process(&key(id)), Some(id));
        let foreign = ["", "0", "0abc", "ABC", "+abc", "abc/x", "20000000000000"];
        for text in foreign {
            let key = format!("{PREFIX}{text}");
            assert_eq!(process(key.as_bytes()), None, "{text}");
        }
        assert_eq!(process(b"/dynamo/v1/other/abc"), None);
    }

    #[test]
    fn a_value_is_a_record_a_withdrawal_or_nothing() {
        assert_eq!(entry(b"null"), Some(Entry::Withdrawn));
        assert_eq!(entry(b"{}"), Some(Entry::Record(Arc::default())));
        assert_eq!(entry(b"\xff"), None);
        assert_eq!(entry(b"[]"), None);
    }
}
