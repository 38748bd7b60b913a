//! The scheduler as a whole: random workloads against what must hold whatever happens, and the
//! semantics one by one.

use super::*;
use crate::timing::Speedup;
use dynamo_protocols::engine::{FinishReason, StopConditions};
use dynamo_protocols::kv::SequenceHash;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

fn config() -> SchedulerConfig {
    SchedulerConfig {
        block_size: NonZeroUsize::new(4).unwrap(),
        total_blocks: 16,
        watermark_blocks: 0,
        max_running: 8,
        max_batched_tokens: 32,
        context_length: 64,
        prefix_caching: true,
        chunked_prefill: true,
        preemption: Preemption::NewestFirst,
        vocabulary: Vocabulary::new(None, 0),
    }
}

fn scheduler(config: SchedulerConfig) -> Scheduler {
    Scheduler::new(config, Timing::new(None, Speedup::default()))
}

fn request(prompt: impl IntoIterator<Item = u32>, max_tokens: u32) -> EngineRequest {
    EngineRequest {
        prompt_ids: prompt.into_iter().collect(),
        stop: StopConditions {
            max_tokens,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }
}

/// A scheduler, and what its callers have seen of it.
struct Observed {
    scheduler: Scheduler,
    now: Duration,
    /// Names that the events add up to.
    replayed: BTreeSet<SequenceHash>,
    outputs: BTreeMap<SequenceId, Vec<Output>>,
    finished: BTreeSet<SequenceId>,
}

impl Observed {
    fn new(config: SchedulerConfig) -> Self {
        Self {
            scheduler: scheduler(config),
            now: Duration::ZERO,
            replayed: BTreeSet::new(),
            outputs: BTreeMap::new(),
            finished: BTreeSet::new(),
        }
    }

    fn step(&mut self) -> Step {
        let step = self.scheduler.step(self.now);
        assert_eq!(step.ends_at, self.now + step.duration);
        assert!(step.tokens <= self.scheduler.config.max_batched_tokens);
        assert!(self.scheduler.running.len() <= self.scheduler.config.max_running);
        assert!(step.outputs.len() <= step.tokens);
        self.now = step.ends_at;
        for event in &step.kv_events {
            self.replay(event);
        }
        for output in &step.outputs {
            assert!(!self.finished.contains(&output.id), "output after the end");
            self.outputs.entry(output.id).or_default().push(*output);
            if output.finish.is_some() {
                self.finished.insert(output.id);
            }
        }
        step
    }

    fn replay(&mut self, event: &KvEvent) {
        match event {
            KvEvent::Stored { parent, blocks } => {
                let mut before = *parent;
                for block in blocks {
                    let linked = before.is_none_or(|it| self.replayed.contains(&it));
                    assert!(linked, "a block without its parent");
                    let chained = before.map_or(block.block_hash, |it| {
                        dynamo_tokens::chain(it, block.block_hash)
                    });
                    assert_eq!(chained, block.sequence_hash);
                    assert!(self.replayed.insert(block.sequence_hash), "stored twice");
                    before = Some(block.sequence_hash);
                }
            }
            KvEvent::Removed { blocks } => {
                for hash in blocks {
                    assert!(self.replayed.remove(hash), "removed what was not there");
                }
            }
            KvEvent::Cleared => panic!("nothing clears the cache"),
        }
    }

    /// What must hold between any two steps.
    fn check(&self) {
        let scheduler = &self.scheduler;
        let live: Vec<_> = scheduler.sequences.iter().flatten().collect();
        let mut held = BTreeMap::new();
        for sequence in &live {
            for block in &sequence.blocks {
                *held.entry(*block).or_insert(0) += 1;
            }
        }
        scheduler.cache.check(&held);
        assert_eq!(self.replayed, scheduler.cache.names());
        assert_eq!(
            scheduler.running.len() + scheduler.waiting.len(),
            live.len()
        );
        assert_eq!(scheduler.slots.len(), live.len());
        for slot in &scheduler.running {
            let sequence = scheduler.sequence(*slot).unwrap();
            let room = sequence.blocks.len() * scheduler.config.block_size.get();
            assert!(sequence.computed < sequence.len() && sequence.computed <= room);
            // The whole of it was given room when it was admitted.
            assert!(sequence.decoding || sequence.len() <= room);
        }
        let queued = scheduler.load().queued;
        let waiting = u64::from(queued.num_prefill_requests + queued.num_decode_requests);
        assert_eq!(waiting, scheduler.waiting.len() as u64);
    }

    fn run_to_the_end(&mut self) {
        for _ in 0..20_000 {
            if self.step().is_idle() {
                assert!(self.scheduler.slots.is_empty(), "idle with sequences left");
                return;
            }
        }
        panic!("some sequences never end");
    }
}

#[derive(Debug, Clone)]
enum Action {
    Submit {
        prompt: Vec<u32>,
        max_tokens: u32,
        priority: i32,
        salted: bool,
    },
    Cancel(usize),
    Stall(usize, bool),
    Step(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    // Few distinct tokens, so that prompts share prefixes.
    let prompt = prop::collection::vec(0_u32..2, 1..40);
    let submit = (prompt, 1_u32..30, -1..2, any::<bool>()).prop_map(
        |(prompt, max_tokens, priority, salted)| Action::Submit {
            prompt,
            max_tokens,
            priority,
            salted,
        },
    );
    let action = prop_oneof![
        3 => submit,
        1 => (0_usize..40).prop_map(Action::Cancel),
        1 => (0_usize..40, any::<bool>()).prop_map(|(which, stalled)| Action::Stall(which, stalled)),
        4 => (1_u8..12).prop_map(Action::Step),
    ];
    prop::collection::vec(action, 1..60)
}

fn configs() -> impl Strategy<Value = SchedulerConfig> {
    let sizes = (
        1_usize..6,
        12_usize..40,
        0_usize..4,
        1_usize..6,
        1_usize..48,
    );
    (sizes, any::<[bool; 3]>()).prop_map(
        |((block_size, total_blocks, watermark_blocks, max_running, budget), flags)| {
            let [prefix_caching, chunked_prefill, newest] = flags;
            let mut context_length = (block_size * total_blocks).min(64);
            if !chunked_prefill {
                context_length = context_length.min(budget);
            }
            SchedulerConfig {
                block_size: NonZeroUsize::new(block_size).unwrap(),
                total_blocks,
                watermark_blocks,
                max_running,
                max_batched_tokens: budget,
                context_length,
                prefix_caching,
                chunked_prefill,
                preemption: match newest {
                    true => Preemption::NewestFirst,
                    false => Preemption::OldestFirst,
                },
                vocabulary: Vocabulary::new(None, 0),
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_workload_ends_with_every_block_accounted_for(config in configs(), actions in actions()) {
        let mut observed = Observed::new(config.clone());
        let mut wanted = BTreeMap::new();
        let mut cancelled = BTreeSet::new();
        let mut next = 0;
        for action in actions {
            match action {
                Action::Submit { prompt, max_tokens, priority, salted } => {
                    let mut new = request(prompt, max_tokens);
                    new.priority = priority;
                    new.cache_salt = salted.then(|| Arc::from("tenant"));
                    if admit(&new, config.context_length) == Ok(Admission::Generate) {
                        let room = config.context_length - new.prompt_ids.len();
                        wanted.insert(next, (max_tokens as usize).min(room));
                        observed.scheduler.submit(next, &new);
                        next += 1;
                    }
                }
                Action::Cancel(which) => {
                    let id = which as SequenceId;
                    if !observed.finished.contains(&id) && wanted.contains_key(&id) {
                        cancelled.insert(id);
                    }
                    observed.scheduler.cancel(id);
                }
                Action::Stall(which, stalled) => {
                    observed.scheduler.set_stalled(which as SequenceId, stalled);
                }
                Action::Step(steps) => {
                    for _ in 0..steps {
                        observed.step();
                        observed.check();
                    }
                }
            }
        }
        for id in 0..next {
            observed.scheduler.set_stalled(id, false);
        }
        observed.run_to_the_end();
        observed.check();
        prop_assert_eq!(observed.scheduler.cache.held(), 0);
        for (id, length) in wanted {
            let outputs = observed.outputs.remove(&id).unwrap_or_default();
            prop_assert_eq!(observed.finished.contains(&id), !cancelled.contains(&id));
            if !cancelled.contains(&id) {
                prop_assert_eq!(outputs.len(), length);
            }
            for (index, output) in outputs.iter().enumerate() {
                prop_assert_eq!(output.cached_tokens.is_some(), index == 0);
            }
        }
    }

    #[test]
    fn what_is_drawn_does_not_depend_on_the_load(
        config in configs(), prompts in prop::collection::vec((1_u32..20, 0_u64..9), 1..12),
    ) {
        let requests: Vec<_> = prompts.iter().map(|&(length, seed)| {
            let mut request = request(0..length, 12);
            request.sampling.seed = seed;
            request
        }).filter(|it| it.prompt_ids.len() + 12 < config.context_length).collect();
        let mut together = Observed::new(config.clone());
        for (id, request) in (0..).zip(&requests) {
            together.scheduler.submit(id, request);
        }
        together.run_to_the_end();
        for (id, request) in (0..).zip(&requests) {
            let mut alone = Observed::new(config.clone());
            alone.scheduler.submit(id, request);
            alone.run_to_the_end();
            let tokens = |it: &Observed| it.outputs[&id].iter().map(|it| it.token).collect::<Vec<_>>();
            prop_assert_eq!(tokens(&together), tokens(&alone));
        }
    }
}

#[test]
fn a_prompt_is_computed_in_chunks_beside_decodes_that_go_first() {
    let mut observed = Observed::new(SchedulerConfig {
        max_batched_tokens: 10,
        ..config()
    });
    observed.scheduler.submit(0, &request(0..4, 9));
    assert_eq!(observed.step().tokens, 4);
    observed.scheduler.submit(1, &request(100..125, 9));
    // One token decodes, nine of the prompt are computed: 9 + 9 + 7.
    let steps: Vec<_> = (0..3).map(|_| observed.step()).collect();
    assert_eq!(
        steps.iter().map(|it| it.tokens).collect::<Vec<_>>(),
        [10, 10, 8]
    );
    let ids = |step: &Step| step.outputs.iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(
        steps.iter().map(ids).collect::<Vec<_>>(),
        [vec![0], vec![0], vec![0, 1]]
    );
    let load = observed.scheduler.load().scheduled;
    assert_eq!(
        (load.num_prefill_requests, load.num_decode_requests),
        (1, 1)
    );
    assert_eq!(
        (load.sum_prefill_tokens, load.sum_prefill_kv_tokens),
        (7, 18)
    );
    assert_eq!(load.sum_decode_kv_tokens, 7);
}

#[test]
fn without_chunks_a_prompt_waits_for_a_step_that_takes_all_of_it() {
    let mut observed = Observed::new(SchedulerConfig {
        max_batched_tokens: 10,
        context_length: 10,
        chunked_prefill: false,
        ..config()
    });
    observed.scheduler.submit(0, &request(0..7, 3));
    observed.scheduler.submit(1, &request(10..15, 3));
    assert_eq!(observed.step().tokens, 7);
    assert_eq!(observed.step().tokens, 1 + 5);
}

#[test]
fn a_prefix_is_found_by_those_that_come_in_the_same_step_and_later() {
    let mut observed = Observed::new(config());
    observed.scheduler.submit(0, &request(0..10, 1));
    observed
        .scheduler
        .submit(1, &request((0..8).chain(20..22), 1));
    assert_eq!(observed.step().tokens, 10 + 2);
    observed.scheduler.submit(2, &request(0..8, 1));
    let mut salted = request(0..8, 1);
    salted.cache_salt = Some("other".into());
    observed.scheduler.submit(3, &salted);
    // The last token is computed in any case, and with it its block.
    assert_eq!(observed.step().tokens, 4 + 8);
    let cached = |id| observed.outputs[&id][0].cached_tokens;
    assert_eq!([0, 1, 2, 3].map(cached), [0, 8, 4, 0].map(Some));
}

#[test]
fn suffixes_are_evicted_before_the_prefix_they_share() {
    let mut observed = Observed::new(SchedulerConfig {
        total_blocks: 6,
        context_length: 24,
        ..config()
    });
    for (id, tail) in [(0, 100), (1, 200)] {
        let prompt = (0..8).chain(tail..tail + 5);
        observed.scheduler.submit(id, &request(prompt, 1));
        observed.run_to_the_end();
    }
    assert_eq!(observed.replayed.len(), 4);
    observed.scheduler.submit(2, &request(300..317, 1));
    observed.run_to_the_end();
    // Five blocks for 17 tokens: the two blank ones and three of the four cached ones.
    observed
        .scheduler
        .submit(3, &request((0..4).chain(400..401), 1));
    observed.run_to_the_end();
    assert_eq!(observed.outputs[&3][0].cached_tokens, Some(4));
}

fn preempted_first(preemption: Preemption) -> SequenceId {
    let mut observed = Observed::new(SchedulerConfig {
        total_blocks: 4,
        context_length: 16,
        preemption,
        ..config()
    });
    observed.scheduler.submit(0, &request(0..7, 8));
    observed.scheduler.submit(1, &request(100..107, 8));
    while observed.scheduler.waiting() == 0 || observed.scheduler.running() == 0 {
        observed.step();
        observed.check();
    }
    let load = observed.scheduler.load();
    assert_eq!(load.queued.num_decode_requests, 1);
    assert_eq!(load.queued.num_prefill_requests, 0);
    let waits = observed.scheduler.waiting.first().unwrap();
    let preempted = observed.scheduler.sequence(waits).unwrap().id;
    observed.run_to_the_end();
    assert_eq!([0, 1].map(|id| observed.outputs[&id].len()), [8, 8]);
    preempted
}

#[test]
fn memory_that_runs_out_preempts_by_the_configured_order_and_all_end_whole() {
    assert_eq!(preempted_first(Preemption::NewestFirst), 1);
    assert_eq!(preempted_first(Preemption::OldestFirst), 0);
}

#[test]
fn the_budget_of_a_preempted_sequence_goes_to_the_others() {
    let mut observed = Observed::new(SchedulerConfig {
        total_blocks: 15,
        max_batched_tokens: 8,
        preemption: Preemption::OldestFirst,
        ..config()
    });
    observed.scheduler.submit(0, &request(0..4, 20));
    observed.scheduler.submit(1, &request(100..104, 20));
    observed.scheduler.submit(2, &request(200..240, 20));
    for _ in 0..5 {
        assert_eq!(observed.step().tokens, 8);
    }
    // The first one gets the last block, then has to give way to the second one.
    assert_eq!(observed.scheduler.waiting(), 0);
    let step = observed.step();
    assert_eq!(observed.scheduler.waiting(), 1);
    assert_eq!(step.tokens, 8);
}

#[test]
fn memory_of_a_preempted_sequence_is_used_at_once_if_nobody_else_computes() {
    let mut observed = Observed::new(SchedulerConfig {
        total_blocks: 4,
        context_length: 16,
        ..config()
    });
    observed.scheduler.submit(0, &request(0..7, 8));
    observed.scheduler.submit(1, &request(100..107, 8));
    observed.step();
    observed.scheduler.set_stalled(0, true);
    observed.step();
    let mut urgent = request(200..203, 1);
    urgent.priority = 5;
    observed.scheduler.submit(2, &urgent);
    let ids: Vec<_> = observed.step().outputs.iter().map(|it| it.id).collect();
    assert_eq!(ids, [2]);
}

#[test]
fn admission_leaves_the_watermark_free_unless_nothing_runs() {
    let mut observed = Observed::new(SchedulerConfig {
        total_blocks: 4,
        watermark_blocks: 2,
        context_length: 16,
        ..config()
    });
    observed.scheduler.submit(0, &request(0..10, 2));
    observed.scheduler.submit(1, &request(100..104, 2));
    observed.step();
    assert_eq!(
        (observed.scheduler.running(), observed.scheduler.waiting()),
        (1, 1)
    );
    observed.run_to_the_end();
    assert_eq!(observed.finished.len(), 2);
}

#[test]
fn a_stalled_sequence_keeps_its_place_and_produces_nothing() {
    let mut observed = Observed::new(config());
    observed.scheduler.submit(0, &request(0..4, 5));
    observed.step();
    observed.scheduler.set_stalled(0, true);
    assert!(observed.step().is_idle());
    assert_eq!(observed.scheduler.running(), 1);
    observed.scheduler.set_stalled(0, false);
    observed.run_to_the_end();
    assert_eq!(observed.outputs[&0].len(), 5);
}

#[test]
fn higher_priority_goes_first_whenever_it_came() {
    let mut observed = Observed::new(SchedulerConfig {
        max_running: 1,
        ..config()
    });
    for (id, priority) in [(0, 0), (1, 0), (2, 5)] {
        let mut request = request(id as u32 * 10..id as u32 * 10 + 3, 1);
        request.priority = priority;
        observed.scheduler.submit(id, &request);
    }
    let order = [0; 3].map(|_| observed.step().outputs[0].id);
    assert_eq!(order, [2, 0, 1]);
}

#[test]
fn an_answer_that_has_begun_goes_before_those_that_have_not() {
    let mut observed = Observed::new(SchedulerConfig {
        max_running: 1,
        ..config()
    });
    for id in 0..3 {
        let mut request = request(id as u32 * 10..id as u32 * 10 + 3, 2);
        if id == 2 {
            request.generated_ids = vec![5];
        }
        observed.scheduler.submit(id, &request);
    }
    assert_eq!(observed.step().outputs[0].id, 2);
}

#[test]
fn a_moved_request_goes_on_where_it_was() {
    let whole = {
        let mut observed = Observed::new(config());
        observed.scheduler.submit(0, &request(0..5, 9));
        observed.run_to_the_end();
        observed.outputs.remove(&0).unwrap()
    };
    let tokens: Vec<_> = whole.iter().map(|output| output.token).collect();
    for taken in 1..9 {
        let mut observed = Observed::new(config());
        let mut rest = request(0..5, 9);
        rest.generated_ids = tokens[..taken].to_vec();
        observed.scheduler.submit(7, &rest);
        observed.run_to_the_end();
        let outputs = &observed.outputs[&7];
        let drawn: Vec<_> = outputs.iter().map(|output| output.token).collect();
        assert_eq!(drawn, tokens[taken..]);
        assert_eq!(outputs.last().unwrap().finish, Some(FinishReason::Length));
    }
}

#[test]
fn the_end_of_the_context_ends_a_sequence() {
    let mut observed = Observed::new(config());
    observed.scheduler.submit(0, &request(0..60, 1_000));
    observed.run_to_the_end();
    assert_eq!(observed.outputs[&0].len(), 4);
    assert_eq!(observed.outputs[&0][3].finish, Some(FinishReason::Length));
}

#[test]
fn steps_take_the_time_of_what_they_compute() {
    let mut observed = Observed::new(config());
    observed.scheduler.submit(0, &request(0..30, 3));
    let prefill = observed.step().duration.as_secs_f64() * 1e3;
    assert!(
        (prefill - (16.501_42 + 0.455_503 + 0.000_379)).abs() < 1e-3,
        "{prefill}"
    );
    // 8 of 16 blocks are in use.
    let decode = observed.step().duration.as_secs_f64() * 1e3;
    assert!((decode - 26.31).abs() < 1e-3, "{decode}");
    assert!(observed.step().duration > Duration::ZERO);
    assert_eq!(observed.step().duration, Duration::ZERO);
}
