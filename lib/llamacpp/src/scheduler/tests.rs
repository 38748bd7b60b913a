//! The scheduler against a naive model of llama.cpp's KV cache, over random traces.

use super::slots::SlotUse;
use super::*;
use dynamo_protocols::kv::KvEvent;
use dynamo_tokens::{block_hashes, sequence_hashes};
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

/// What a cell of the model cache was computed from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cell {
    token: u32,
    salt: Option<Arc<str>>,
    /// Computed as part of a whole aligned chunk of a prompt.
    whole_chunk: bool,
}

/// A request as the model tracks it.
#[derive(Debug)]
struct Tracked {
    tokens: Vec<u32>,
    prompt_len: usize,
    salt: Option<Arc<str>>,
    left: usize,
    stalled: bool,
}

/// Drives a scheduler and checks every plan against a cache of reference-counted cells.
#[derive(Debug)]
struct Model {
    scheduler: Scheduler,
    /// Per slot, the cells it holds, by index into `cells`.
    slots: Vec<Vec<usize>>,
    cells: Vec<Cell>,
    requests: BTreeMap<SequenceId, Tracked>,
    events: HashSet<u64>,
    next_event: u64,
    computed_tokens: usize,
    /// Sequences that produced a token in the step before.
    decoding: HashSet<SequenceId>,
    /// Whether some tokens are drawn a plan later.
    holds: bool,
    /// Sequences whose token is.
    held: Vec<SequenceId>,
}

impl Model {
    fn new(config: SchedulerConfig) -> Self {
        Self {
            slots: vec![Vec::new(); config.slots],
            scheduler: Scheduler::new(config),
            cells: Vec::new(),
            requests: BTreeMap::new(),
            events: HashSet::new(),
            next_event: 0,
            computed_tokens: 0,
            decoding: HashSet::new(),
            holds: false,
            held: Vec::new(),
        }
    }

    fn submit(&mut self, prompt: Vec<u32>, generated: Vec<u32>, salt: Option<&str>, left: usize) {
        let salt: Option<Arc<str>> = salt.map(Into::into);
        let new = NewSequence {
            prompt: prompt.clone(),
            generated: generated.clone(),
            salt: salt.clone(),
            priority: 0,
        };
        let full = self.scheduler.waiting() >= self.scheduler.config().max_waiting;
        let id = self.scheduler.submit(new);
        assert_eq!(id.is_err(), full);
        if let Ok(id) = id {
            let prompt_len = prompt.len();
            let tokens: Vec<u32> = prompt.into_iter().chain(generated).collect();
            let room = self.scheduler.config().context_length - tokens.len();
            self.requests.insert(
                id,
                Tracked {
                    tokens,
                    prompt_len,
                    salt,
                    left: left.min(room),
                    stalled: false,
                },
            );
        }
    }

    fn nth(&self, n: usize) -> Option<SequenceId> {
        let count = self.requests.len().max(1);
        self.requests.keys().nth(n % count).copied()
    }

    fn cancel(&mut self, n: usize) {
        if let Some(id) = self.nth(n) {
            self.scheduler.finish(id);
            self.requests.remove(&id);
            let gone = self.scheduler.slots.iter();
            assert!(gone.into_iter().all(|s| s.usage != SlotUse::Live(id)));
        }
    }

    fn stall(&mut self, n: usize, stalled: bool) {
        if let Some(id) = self.nth(n) {
            self.scheduler.set_stalled(id, stalled);
            self.requests.get_mut(&id).unwrap().stalled = stalled;
        }
    }

    fn apply(&mut self, ops: Vec<SlotOp>) {
        for op in ops {
            match op {
                SlotOp::Clear { slot } => self.slots[slot].clear(),
                SlotOp::Trim { slot, len } => {
                    assert!(len <= self.slots[slot].len());
                    self.slots[slot].truncate(len);
                }
                SlotOp::Copy { from, to, len } => {
                    assert!(self.slots[to].is_empty(), "copies go into empty slots");
                    assert!(len <= self.slots[from].len());
                    let shared = self.slots[from][..len].to_vec();
                    self.slots[to] = match self.scheduler.config().layout {
                        Layout::Shared => shared,
                        Layout::Isolated { .. } => {
                            shared.iter().map(|&cell| self.duplicate(cell)).collect()
                        }
                    };
                }
            }
        }
    }

    fn duplicate(&mut self, cell: usize) -> usize {
        self.cells.push(self.cells[cell].clone());
        self.cells.len() - 1
    }

    fn used_cells(&self) -> usize {
        self.slots.iter().flatten().collect::<HashSet<_>>().len()
    }

    fn check_batch(&self, rows: &[Row]) {
        let config = self.scheduler.config();
        let tokens: usize = rows.iter().map(|row| row.range.len()).sum();
        assert!(tokens <= config.max_batch_tokens, "budget");
        let ids: HashSet<_> = rows.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), rows.len(), "one row per sequence");
        match config.layout {
            Layout::Shared => {
                let decodes = rows.iter().any(|row| self.decoding.contains(&row.id));
                let long: usize = rows
                    .iter()
                    .map(|row| row.range.len())
                    .filter(|n| *n > 1)
                    .sum();
                if decodes {
                    assert!(
                        long <= config.mixed_prefill_tokens,
                        "decodes are not stalled"
                    );
                }
            }
            Layout::Isolated { chunk } => {
                assert_eq!(rows.len(), 1, "each sequence decodes as if alone");
                let row = &rows[0];
                let prompt_len = self.requests[&row.id].prompt_len;
                if row.range.start < prompt_len {
                    assert_eq!(row.range.start % chunk, 0);
                    assert_eq!(row.range.end, (row.range.start + chunk).min(prompt_len));
                } else {
                    assert_eq!(row.range.len(), 1);
                }
            }
        }
    }

    fn compute(&mut self, row: &Row) {
        let request = &self.requests[&row.id];
        assert!(!request.stalled, "nobody reads this one");
        assert!(!self.held.contains(&row.id), "its token is not drawn yet");
        assert_eq!(
            self.scheduler.tokens(row),
            &request.tokens[row.range.clone()]
        );
        assert_eq!(row.output, row.range.end == request.tokens.len());
        let held = &self.slots[row.slot];
        assert_eq!(
            held.len(),
            row.range.start,
            "rows continue what the slot holds"
        );
        for (position, &cell) in held.iter().enumerate() {
            assert_eq!(
                self.cells[cell].token, request.tokens[position],
                "right prefix"
            );
            assert_eq!(self.cells[cell].salt, request.salt, "never across salts");
        }
        let chunk = match self.scheduler.config().layout {
            Layout::Shared => 1,
            Layout::Isolated { chunk } => chunk,
        };
        let whole_chunk = row.range.len().is_multiple_of(chunk)
            && (chunk == 1 || row.range.end <= request.prompt_len);
        for position in row.range.clone() {
            self.cells.push(Cell {
                token: request.tokens[position],
                salt: request.salt.clone(),
                whole_chunk,
            });
            self.slots[row.slot].push(self.cells.len() - 1);
        }
        self.computed_tokens += row.range.len();
    }

    fn step(&mut self) -> bool {
        let held = self.held.clone();
        let plan = self.scheduler.plan();
        self.apply(plan.ops);
        let config = self.scheduler.config().clone();
        assert!(self.scheduler.running.len() <= config.max_running);
        for rows in &plan.batches {
            self.check_batch(rows);
        }
        self.decoding.clear();
        for rows in &plan.batches {
            for row in rows {
                self.compute(row);
            }
            let capacity = config.total_blocks * config.block_size.get();
            assert!(
                self.used_cells() <= capacity,
                "cells are not over-committed"
            );
            for row in rows {
                self.scheduler.computed(row);
                if row.output {
                    self.decoding.insert(row.id);
                    self.sample(row.id);
                }
            }
        }
        self.check_events();
        self.check_load();
        let late: Vec<_> = self
            .held
            .drain(..)
            .filter(|id| !held.contains(id))
            .collect();
        for &id in &held {
            self.scheduler.set_held(id, false);
            if self.requests.contains_key(&id) {
                self.draw(id);
            }
        }
        self.held = late;
        !plan.batches.is_empty() || !held.is_empty()
    }

    /// Draws a token, now or after the next plan.
    fn sample(&mut self, id: SequenceId) {
        let tokens = &self.requests[&id].tokens;
        if self.holds && (tokens.len() + tokens[0] as usize).is_multiple_of(3) {
            self.scheduler.set_held(id, true);
            self.held.push(id);
        } else {
            self.draw(id);
        }
    }

    fn draw(&mut self, id: SequenceId) {
        let request = self.requests.get_mut(&id).unwrap();
        // Few different tokens, so that outputs of one become prompts of another.
        let token = (request.tokens.iter().sum::<u32>() + 1) % 3;
        request.tokens.push(token);
        request.left = request.left.saturating_sub(1);
        if request.left == 0 {
            self.scheduler.finish(id);
            self.requests.remove(&id);
        } else {
            self.scheduler.push(id, token);
        }
    }

    fn check_events(&mut self) {
        let ops = self.scheduler.take_ops();
        self.apply(ops);
        if let Some(batch) = self.scheduler.take_events() {
            assert_eq!(batch.first_event_id, self.next_event, "no gap");
            self.next_event += batch.events.len() as u64;
            for event in batch.events {
                self.replay(event);
            }
        }
        let mut reusable = HashSet::new();
        let slots = self.slots.iter().filter(|_| self.scheduler.config().reuse);
        for held in slots {
            let cells: Vec<_> = held.iter().map(|&cell| &self.cells[cell]).collect();
            let whole: Vec<u32> = cells
                .iter()
                .take_while(|cell| cell.whole_chunk)
                .map(|cell| cell.token)
                .collect();
            let salt = cells.first().and_then(|cell| cell.salt.as_deref());
            let block_size = self.scheduler.block_size();
            let hashes = block_hashes(&whole, block_size, &HashContext::of(None, salt));
            reusable.extend(sequence_hashes(&hashes));
        }
        assert_eq!(self.events, reusable, "events are what is reusable");
    }

    fn replay(&mut self, event: KvEvent) {
        match event {
            KvEvent::Stored { parent, blocks } => {
                let mut parent = parent;
                for block in blocks {
                    assert!(
                        parent.is_none_or(|p| self.events.contains(&p)),
                        "parent first"
                    );
                    assert!(self.events.insert(block.sequence_hash), "stored once");
                    parent = Some(block.sequence_hash);
                }
            }
            KvEvent::Removed { blocks } => {
                for hash in blocks {
                    assert!(self.events.remove(&hash), "only what was stored is removed");
                }
            }
            KvEvent::Cleared => self.events.clear(),
        }
    }

    fn check_load(&self) {
        let load = self.scheduler.load();
        assert!(load.cached_blocks <= load.used_blocks && load.used_blocks <= load.total_blocks);
    }

    /// Runs until everything that is read has ended.
    fn drain(&mut self) {
        let mut idle = 0;
        // Each request needs at most its own steps, again for each time it was preempted, and
        // one first in order always progresses: the bound is generous and finite.
        let bound = 400 * (self.requests.len() + 1);
        for _ in 0..bound {
            if self.requests.values().all(|r| r.stalled) {
                return;
            }
            idle = if self.step() { 0 } else { idle + 1 };
            assert!(
                idle < 3,
                "work waits and nothing is done: {:?}",
                self.requests
            );
        }
        panic!("not finished after {bound} steps: {:?}", self.requests);
    }
}

#[derive(Debug, Clone)]
enum Action {
    Submit {
        prefix: usize,
        prefix_len: usize,
        tail: Vec<u32>,
        generated: Vec<u32>,
        salt: bool,
        left: usize,
    },
    Step(usize),
    Cancel(usize),
    Stall(usize, bool),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let submit = (
        0_usize..3,
        0_usize..30,
        prop::collection::vec(0_u32..3, 1..6),
        prop::collection::vec(0_u32..3, 0..4),
        any::<bool>(),
        1_usize..12,
    )
        .prop_map(
            |(prefix, prefix_len, tail, generated, salt, left)| Action::Submit {
                prefix,
                prefix_len,
                tail,
                generated,
                salt,
                left,
            },
        );
    let action = prop_oneof![
        4 => submit,
        5 => (1_usize..4).prop_map(Action::Step),
        1 => (0_usize..8).prop_map(Action::Cancel),
        1 => (0_usize..8, any::<bool>()).prop_map(|(n, on)| Action::Stall(n, on)),
    ];
    prop::collection::vec(action, 1..60)
}

fn run(config: SchedulerConfig, actions: Vec<Action>) {
    let mut model = Model::new(config);
    model.holds = true;
    for action in actions {
        match action {
            Action::Submit {
                prefix,
                prefix_len,
                tail,
                generated,
                salt,
                left,
            } => {
                // Three prefixes that begin alike and part later.
                let shared = (0..prefix_len).map(|i| if i < 8 { 1 } else { prefix as u32 });
                let prompt = shared.chain(tail).collect();
                model.submit(prompt, generated, salt.then_some("tenant"), left);
            }
            Action::Step(n) => {
                for _ in 0..n {
                    model.step();
                }
            }
            Action::Cancel(n) => model.cancel(n),
            Action::Stall(n, stalled) => model.stall(n, stalled),
        }
    }
    // Whoever is read ends, even while others stay stalled; then the rest ends too.
    model.drain();
    for n in 0..model.requests.len() {
        model.stall(n, false);
    }
    model.drain();
    assert!(model.requests.is_empty());
    assert!(model.scheduler.is_idle());
    assert_eq!(model.scheduler.pool.live_used(), 0);
}

fn shared(slots: usize, max_running: usize, total_blocks: usize) -> SchedulerConfig {
    SchedulerConfig {
        slots,
        max_running,
        max_waiting: 12,
        block_size: NonZeroUsize::new(4).unwrap(),
        total_blocks,
        max_batch_tokens: 16,
        mixed_prefill_tokens: 6,
        context_length: (total_blocks * 4).min(48),
        reuse: true,
        layout: Layout::Shared,
    }
}

fn isolated(slots: usize, max_running: usize) -> SchedulerConfig {
    SchedulerConfig {
        total_blocks: slots * 12,
        layout: Layout::Isolated { chunk: 8 },
        ..shared(slots, max_running, 12)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn shared_memory_keeps_every_invariant(
        actions in actions(),
        max_running in 1_usize..6,
        parked in 1_usize..5,
        total_blocks in 12_usize..40,
    ) {
        run(shared(max_running + parked, max_running, total_blocks), actions);
    }

    #[test]
    fn isolated_memory_keeps_every_invariant(
        actions in actions(),
        max_running in 1_usize..5,
        parked in 0_usize..4,
    ) {
        run(isolated(max_running + parked, max_running), actions);
    }

    #[test]
    fn without_reuse_everything_still_ends(actions in actions(), total_blocks in 12_usize..20) {
        let config = SchedulerConfig { reuse: false, ..shared(4, 3, total_blocks) };
        run(config, actions);
    }
}

#[test]
fn a_burst_with_one_prefix_computes_it_once() {
    let mut model = Model::new(shared(8, 4, 40));
    for tail in 0..4 {
        let prompt = std::iter::repeat_n(1, 32).chain([tail]).collect();
        model.submit(prompt, vec![], None, 1);
    }
    model.drain();
    assert_eq!(model.computed_tokens, 32 + 4);
}

#[test]
fn a_repeated_prompt_computes_only_what_is_past_its_last_whole_block() {
    let mut model = Model::new(shared(8, 4, 40));
    model.submit(vec![1; 33], vec![], None, 1);
    model.drain();
    let cold = model.computed_tokens;
    model.submit(vec![1; 33], vec![], None, 1);
    model.drain();
    assert_eq!((cold, model.computed_tokens - cold), (33, 1));
}

#[test]
fn a_long_prompt_does_not_stall_a_sequence_that_decodes() {
    let mut model = Model::new(shared(8, 4, 40));
    model.submit(vec![2; 4], vec![], None, 20);
    model.step();
    model.submit(vec![1; 40], vec![], None, 1);
    let before = model.requests[&0].left;
    for _ in 0..5 {
        model.step();
    }
    assert_eq!(before - model.requests[&0].left, 5);
}

#[test]
fn preempted_sequences_end_with_all_their_tokens() {
    // Two sequences that grow to 12 blocks each in memory for 14.
    let mut model = Model::new(shared(4, 2, 14));
    model.submit(vec![1; 8], vec![], None, 40);
    model.submit(vec![2; 8], vec![], None, 40);
    model.drain();
    assert!(model.requests.is_empty());
    assert!(model.computed_tokens > 2 * 47, "one was computed again");
}

#[test]
fn a_stalled_sequence_gives_its_place_to_one_that_waits() {
    let mut model = Model::new(shared(4, 1, 20));
    model.submit(vec![1; 8], vec![], None, 10);
    model.step();
    model.stall(0, true);
    model.submit(vec![2; 8], vec![], None, 3);
    model.drain();
    assert_eq!(model.requests.len(), 1);
    model.stall(0, false);
    model.drain();
    assert!(model.requests.is_empty());
}

#[test]
fn higher_priority_goes_first_and_equals_first_come_first_served() {
    let mut scheduler = Scheduler::new(shared(4, 1, 20));
    let mut submit = |priority| {
        let new = NewSequence {
            prompt: vec![1, 2],
            priority,
            ..NewSequence::default()
        };
        scheduler.submit(new).unwrap()
    };
    let (low, first, second) = (submit(0), submit(5), submit(5));
    let mut order = Vec::new();
    for _ in 0..3 {
        let plan = scheduler.plan();
        order.push(plan.batches[0][0].id);
        scheduler.computed(&plan.batches[0][0]);
        scheduler.finish(plan.batches[0][0].id);
    }
    assert_eq!(order, [first, second, low]);
}

#[test]
fn an_answer_that_has_begun_goes_before_those_that_have_not() {
    let mut scheduler = Scheduler::new(shared(4, 1, 20));
    let mut submit = |generated: &[u32]| {
        let new = NewSequence {
            prompt: vec![1, 2],
            generated: generated.to_vec(),
            ..NewSequence::default()
        };
        scheduler.submit(new).unwrap()
    };
    let (first, second, begun) = (submit(&[]), submit(&[]), submit(&[3]));
    let mut order = Vec::new();
    for _ in 0..3 {
        let plan = scheduler.plan();
        order.push(plan.batches[0][0].id);
        scheduler.computed(&plan.batches[0][0]);
        scheduler.finish(plan.batches[0][0].id);
    }
    assert_eq!(order, [begun, first, second]);
}

#[test]
fn an_imported_prefix_is_reused_and_published_only_once_it_is_there() {
    let mut scheduler = Scheduler::new(shared(4, 2, 20));
    let tokens: Vec<u32> = (0..16).collect();
    let slot = scheduler.reserve_import(&tokens, None).unwrap();
    assert!(scheduler.take_events().is_none());
    scheduler.finish_import(slot, true);
    assert!(scheduler.take_events().is_some());
    let hashes = sequence_hashes(&block_hashes(&tokens, 4, &HashContext::new()));
    let cached = scheduler.cached_prefix(&hashes).unwrap();
    assert_eq!(
        (cached.slot, cached.blocks, cached.tokens),
        (slot, 4, tokens.clone())
    );
    let prompt = tokens.into_iter().chain([99]).collect();
    let new = NewSequence {
        prompt,
        ..NewSequence::default()
    };
    let id = scheduler.submit(new).unwrap();
    let plan = scheduler.plan();
    assert_eq!(plan.batches[0][0].range, 16..17);
    assert_eq!(scheduler.cached_tokens(id), 16);
}

#[test]
fn an_import_that_failed_leaves_nothing() {
    let mut scheduler = Scheduler::new(shared(4, 2, 20));
    let slot = scheduler.reserve_import(&[1; 16], None).unwrap();
    scheduler.finish_import(slot, false);
    assert!(scheduler.take_events().is_none());
    assert_eq!(scheduler.load().used_blocks, 0);
    assert_eq!(scheduler.take_ops(), [SlotOp::Clear { slot }]);
}

#[test]
fn a_failed_sequence_takes_its_blocks_out_of_the_cache() {
    let mut scheduler = Scheduler::new(shared(4, 2, 20));
    let new = NewSequence {
        prompt: vec![1; 9],
        ..NewSequence::default()
    };
    let id = scheduler.submit(new).unwrap();
    let plan = scheduler.plan();
    scheduler.computed(&plan.batches[0][0]);
    scheduler.discard(id);
    let events = scheduler.take_events().unwrap().events;
    assert!(matches!(&events[1], KvEvent::Removed { blocks } if blocks.len() == 2));
    assert!(scheduler.is_idle());
    assert_eq!(scheduler.load().used_blocks, 0);
}
