//! Measures the index of KV blocks on a trace of requests.
//!
//! Each line of the trace has `hash_ids`, each of which names 512 tokens, that is 32 blocks. The
//! requests go to 64 workers that keep 16,384 blocks each and evict the least recently used ones;
//! what the workers would tell of their caches is applied, then every request is looked up. A
//! second pass looks requests up while a thread applies events, cut into small ones, at a fixed
//! rate. This is the workload that other indexes of this kind are measured with.

use dynamo_config::options;
use dynamo_kv_router::{Index, Matches, SharedIndex, Slot, Tier};
use dynamo_protocols::kv::{Block, KvEvent};
use dynamo_tokens::sequence_hashes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hint::spin_loop;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: usize = 64;

/// Blocks that a worker keeps.
const CAPACITY: usize = 16_384;

/// Blocks of 16 tokens in one hash of the trace.
const SPLIT: u64 = 32;

/// Events a second while lookups are measured.
const EVENT_RATE: u64 = 100_000;

/// Blocks of such an event: what a step of chunked prefill stores for a request or two.
const EVENT_BLOCKS: usize = 16;

options! {
    /// The index of KV blocks, measured on a trace.
    pub struct BenchIndexOptions("bench_index") {
        /// The trace: a JSON object on each line with `hash_ids`, as the Mooncake traces have them.
        trace: Option<PathBuf> = None, env = "DYN_BENCH_TRACE";
    }
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexTraceError {
    /// A line is no JSON.
    #[error("line {line} of the trace is malformed: {source}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line names no blocks.
    #[error("line {line} of the trace has no hash_ids")]
    NoHashes {
        /// The line, from 1.
        line: usize,
    },
}

/// Measures the index; `trace` is the trace's text. Takes seconds, on this thread and one more.
pub fn measure(trace: &str) -> Result<Value, IndexTraceError> {
    let trace = Trace::read(trace)?;
    let mut report = trace.shape();
    report.extend(alone(&trace));
    report.extend(together(&trace));
    let figures = report.into_iter().map(|(key, value)| (key.into(), value));
    Ok(Value::Object(figures.collect()))
}

type Report = Vec<(&'static str, Value)>;

/// Requests by the hashes of their blocks, and what workers tell meanwhile.
#[derive(Default)]
struct Trace {
    prompts: Vec<Vec<u64>>,
    events: Vec<(Slot, KvEvent)>,
    /// Kept, so that what is measured does not grow into memory that they gave back.
    caches: Vec<Cache>,
}

impl Trace {
    fn read(text: &str) -> Result<Self, IndexTraceError> {
        let mut caches: Vec<_> = (0..WORKERS).map(|_| Cache::default()).collect();
        let mut trace = Self::default();
        for (number, line) in text.lines().enumerate() {
            let at = number + 1;
            let request: Value = serde_json::from_str(line)
                .map_err(|source| IndexTraceError::Malformed { line: at, source })?;
            let ids = request["hash_ids"].as_array();
            let ids = ids.ok_or(IndexTraceError::NoHashes { line: at })?;
            let ids: Vec<u64> = ids.iter().filter_map(Value::as_u64).collect();
            let blocks = ids
                .iter()
                .flat_map(|id| (0..SPLIT).map(move |at| mix(id * 64 + at + 1)));
            let blocks: Vec<u64> = blocks.collect();
            let sticky = ids.get(1).map_or(number as u64, |id| mix(*id));
            let worker = (sticky % WORKERS as u64) as u32;
            let events = caches[worker as usize].serve(&blocks);
            trace
                .events
                .extend(events.into_iter().map(|event| (Slot(worker), event)));
            trace.prompts.push(blocks);
        }
        trace.caches = caches;
        Ok(trace)
    }

    fn shape(&self) -> Report {
        let (mut stored, mut removed) = (0, 0);
        for (_, event) in &self.events {
            match event {
                KvEvent::Stored { blocks, .. } => stored += blocks.len(),
                KvEvent::Removed { blocks } => removed += blocks.len(),
                KvEvent::Cleared => {}
            }
        }
        vec![
            ("prompts", json!(self.prompts.len())),
            ("stored_blocks", json!(stored)),
            ("removed_blocks", json!(removed)),
        ]
    }
}

/// A worker's cache: least recently used blocks go first.
#[derive(Default)]
struct Cache {
    used_at: HashMap<u64, u64>,
    by_use: BTreeMap<u64, u64>,
    clock: u64,
}

impl Cache {
    fn serve(&mut self, block_hashes: &[u64]) -> Vec<KvEvent> {
        let hashes = sequence_hashes(block_hashes);
        let cached = hashes
            .iter()
            .take_while(|hash| self.used_at.contains_key(hash))
            .count();
        for &hash in &hashes {
            self.clock += 1;
            if let Some(before) = self.used_at.insert(hash, self.clock) {
                self.by_use.remove(&before);
            }
            self.by_use.insert(self.clock, hash);
        }
        let new = block_hashes.iter().zip(&hashes).skip(cached);
        let blocks: Vec<Block> = new
            .map(|(&block_hash, &sequence_hash)| Block {
                block_hash,
                sequence_hash,
            })
            .collect();
        if blocks.is_empty() {
            return Vec::new();
        }
        let parent = cached.checked_sub(1).map(|last| hashes[last]);
        let stored = KvEvent::Stored { parent, blocks };
        let evicted = self.evict();
        if evicted.is_empty() {
            return vec![stored];
        }
        vec![stored, KvEvent::Removed { blocks: evicted }]
    }

    fn evict(&mut self) -> Vec<u64> {
        let mut evicted = Vec::new();
        while self.used_at.len() > CAPACITY
            && let Some((_, hash)) = self.by_use.pop_first()
        {
            self.used_at.remove(&hash);
            evicted.push(hash);
        }
        evicted
    }
}

/// Spreads the small numbers of the trace.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// One thread, everything applied before anything is looked up.
fn alone(trace: &Trace) -> Report {
    let resident = resident_bytes();
    let start = Instant::now();
    let mut index = Index::default();
    for (slot, event) in &trace.events {
        index.apply(*slot, Tier::Device, event);
    }
    let applied = start.elapsed();
    let grown = resident_bytes().saturating_sub(resident);
    let mut matches = Matches::new();
    let mut found = 0;
    let lookups = Times::of(&trace.prompts, |prompt| {
        index.find_blocks(prompt, &mut matches);
        found += u64::from(matches.longest());
    });
    let chained = Times::of(&trace.prompts, |prompt| {
        index.find(&sequence_hashes(prompt), &mut matches);
    });
    vec![
        ("events_s", json!(applied.as_secs_f64())),
        ("resident_grown_kb", json!(grown / 1024)),
        ("memory_kb", json!(index.memory_bytes() / 1024)),
        ("blocks", json!(index.blocks())),
        ("distinct_blocks", json!(index.distinct_blocks())),
        ("runs", json!(index.runs())),
        ("hit_blocks", json!(found)),
        ("lookup_p50_ns", json!(lookups.percentile(50))),
        ("lookup_p99_ns", json!(lookups.percentile(99))),
        ("chained_lookup_p50_ns", json!(chained.percentile(50))),
        ("chained_lookup_p99_ns", json!(chained.percentile(99))),
    ]
}

/// One thread looks up while another applies the second half of the events.
fn together(trace: &Trace) -> Report {
    let (before, during) = trace.events.split_at(trace.events.len() / 2);
    let index = SharedIndex::default();
    for (slot, event) in before {
        index.apply(*slot, Tier::Device, event);
    }
    let during: Vec<_> = during
        .iter()
        .flat_map(|(slot, event)| cut(*slot, event))
        .collect();
    let done = AtomicBool::new(false);
    let (visible, lookups) = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let visible = paced(&index, &during);
            done.store(true, Ordering::Relaxed);
            visible
        });
        let mut matches = Matches::new();
        let mut lookups = Vec::new();
        for prompt in trace.prompts.iter().cycle() {
            let start = Instant::now();
            index.find_blocks(prompt, &mut matches);
            lookups.push(start.elapsed());
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
        (writer.join().unwrap_or_default(), Times::new(lookups))
    });
    let visible = Times::new(visible);
    vec![
        ("concurrent_events", json!(during.len())),
        ("concurrent_lookups", json!(lookups.0.len())),
        ("event_visible_p50_ns", json!(visible.percentile(50))),
        ("event_visible_p99_ns", json!(visible.percentile(99))),
        ("concurrent_lookup_p50_ns", json!(lookups.percentile(50))),
        ("concurrent_lookup_p99_ns", json!(lookups.percentile(99))),
    ]
}

/// Applies events when they are due; answers how long after that each was visible.
fn paced(index: &SharedIndex, events: &[(Slot, KvEvent)]) -> Vec<Duration> {
    let start = Instant::now();
    let visible = (0_u64..).zip(events).map(|(number, (slot, event))| {
        let due = start + Duration::from_nanos(number * 1_000_000_000 / EVENT_RATE);
        while Instant::now() < due {
            spin_loop();
        }
        index.apply(*slot, Tier::Device, event);
        due.elapsed()
    });
    visible.collect()
}

fn cut(slot: Slot, event: &KvEvent) -> Vec<(Slot, KvEvent)> {
    let events: Vec<KvEvent> = match event {
        KvEvent::Stored { parent, blocks } => {
            let mut parent = *parent;
            let some = blocks.chunks(EVENT_BLOCKS).map(|some| {
                let stored = KvEvent::Stored {
                    parent,
                    blocks: some.to_vec(),
                };
                parent = some.last().map(|block| block.sequence_hash);
                stored
            });
            some.collect()
        }
        KvEvent::Removed { blocks } => {
            let some = blocks.chunks(EVENT_BLOCKS);
            some.map(|some| KvEvent::Removed {
                blocks: some.to_vec(),
            })
            .collect()
        }
        KvEvent::Cleared => vec![KvEvent::Cleared],
    };
    events.into_iter().map(|event| (slot, event)).collect()
}

/// Sorted.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn of<T>(items: &[T], mut work: impl FnMut(&T)) -> Self {
        let times = items.iter().map(|item| {
            let start = Instant::now();
            work(item);
            start.elapsed()
        });
        Self::new(times.collect())
    }

    fn percentile(&self, percent: usize) -> u64 {
        let time = self.0.get(self.0.len() * percent / 100);
        time.map_or(0, |time| time.as_nanos() as u64)
    }
}

/// Memory of this process; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * PAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        let schema = dynamo_config::Schema::new().with::<BenchIndexOptions>();
        assert!(schema.check().is_empty(), "{:?}", schema.check());
    }

    #[test]
    fn blocks_are_found_again_and_what_is_no_trace_says_where() {
        let line = "{\"hash_ids\": [1, 2, 3]}\n";
        let figures = measure(&line.repeat(3)).unwrap();
        assert_eq!(figures["prompts"], 3);
        // One request stores what all three find: three times 32 blocks each.
        assert_eq!(figures["blocks"], 96);
        assert_eq!(figures["hit_blocks"], 3 * 96);
        let error = measure(&format!("{line}nonsense")).unwrap_err();
        assert!(error.to_string().starts_with("line 2"), "{error}");
        assert!(measure("{}").unwrap_err().to_string().contains("hash_ids"));
    }
}
