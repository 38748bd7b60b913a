//! Why KV-aware routing may do no better than taking turns: the usual causes, each recognised by
//! what it leaves in the router's numbers, and what mends it. Pure.

use crate::figures::Figures;
use dynamo_kv_router::hit_rate::Totals;
use serde::Serialize;

/// Requests after which shares mean something.
const ENOUGH_REQUESTS: u64 = 20;

/// Share of the prompt tokens by which prediction and engines may differ: blocks that were stored
/// or evicted between the choice and its prefill.
const TOLERATED_DIFFERENCE: f64 = 0.15;

/// Share of prompts too short for a block above which the block size is in question.
const MANY_SHORT_PROMPTS: f64 = 0.5;

/// Age of events above which choices go by what was.
const OLD_EVENTS_MS: u64 = 2_000;

/// Share of prompt tokens seen before below which no router can find anything in a cache.
const LITTLE_IN_COMMON: f64 = 0.05;

/// Something that keeps requests from finding their prefixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Short name of the cause.
    pub cause: &'static str,
    /// What was seen.
    pub seen: String,
    /// What mends it.
    pub fix: &'static str,
}

/// What is wrong, the most basic things first. Nothing found means that nothing of the usual is
/// wrong.
pub fn diagnose(figures: &Figures) -> Vec<Finding> {
    let checks = [
        no_workers,
        other_mode,
        silent_workers,
        other_block_size,
        broken_hashes,
        unreadable_news,
        full_index,
        old_events,
        short_prompts,
        unexpected_hits,
        missing_hits,
        nothing_in_common,
    ];
    checks.iter().filter_map(|check| check(figures)).collect()
}

fn finding(cause: &'static str, seen: String, fix: &'static str) -> Option<Finding> {
    Some(Finding { cause, seen, fix })
}

fn no_workers(figures: &Figures) -> Option<Finding> {
    let seen = match figures.workers.len() {
        0 => "no worker serves the model".to_owned(),
        1 => "one worker serves the model, so there is nothing to choose".to_owned(),
        _ => return None,
    };
    finding(
        "workers",
        seen,
        "start more workers in the same namespace and discovery backend",
    )
}

fn other_mode(figures: &Figures) -> Option<Finding> {
    if figures.mode.is_by_cost() {
        return None;
    }
    let seen = format!(
        "workers are picked by `{}`, which does not look into caches",
        figures.mode.as_str()
    );
    let fix = match figures.telling {
        0 => {
            "have workers publish KV events (prefix caching must be on in the engine), or route by \
             what was sent to them: --router-mode kv --no-router-kv-events"
        }
        _ => "start the frontend with --router-mode kv, or leave the option out",
    };
    finding("mode", seen, fix)
}

fn silent_workers(figures: &Figures) -> Option<Finding> {
    let instances = instances(figures);
    if figures.telling == 0 || figures.telling >= instances {
        return None;
    }
    let silent = instances - figures.telling;
    finding(
        "silent_workers",
        format!("{silent} of {instances} workers publish no KV events: they look empty"),
        "turn prefix caching and KV events on in every worker's engine",
    )
}

fn other_block_size(figures: &Figures) -> Option<Finding> {
    let sizes = figures.workers.iter().map(|worker| worker.load.block_size);
    let other = sizes
        .into_iter()
        .find(|size| *size != 0 && *size != figures.block_size)?;
    finding(
        "block_size",
        format!(
            "a worker's KV blocks have {other} tokens, and the model's card says {}",
            figures.block_size
        ),
        "start all workers of a model with one block size",
    )
}

fn broken_hashes(figures: &Figures) -> Option<Finding> {
    let refused = figures.index.counters.inconsistent;
    (refused > 0).then_some(())?;
    finding(
        "hashes",
        format!("{refused} KV events were refused: their block hashes do not chain"),
        "run workers and frontend of one version; an engine's own block ids must be translated by its worker",
    )
}

fn unreadable_news(figures: &Figures) -> Option<Finding> {
    let malformed = figures.news.malformed;
    (malformed > 0).then_some(())?;
    finding(
        "unreadable_events",
        format!("{malformed} pieces of the workers' news could not be read"),
        "run workers and frontend of one version",
    )
}

fn full_index(figures: &Figures) -> Option<Finding> {
    let refused = figures.index.counters.refused;
    (refused > 0).then_some(())?;
    finding(
        "index_full",
        format!("the index had no room for {refused} blocks"),
        "use larger KV blocks, or split the fleet into namespaces with frontends of their own",
    )
}

fn old_events(figures: &Figures) -> Option<Finding> {
    let lag = figures.news.lag_ms;
    (lag > OLD_EVENTS_MS).then_some(())?;
    finding(
        "old_events",
        format!("the last event was {lag} ms old when it was heard"),
        "set the machines' clocks right; if they are, give the frontend more CPU or the network more room",
    )
}

fn short_prompts(figures: &Figures) -> Option<Finding> {
    let recent = enough(figures)?;
    let share = recent.short_prompts as f64 / recent.requests as f64;
    (share > MANY_SHORT_PROMPTS).then_some(())?;
    finding(
        "short_prompts",
        format!(
            "{:.0}% of the prompts are shorter than a block of {} tokens: no cache can have them",
            share * 100.0,
            figures.block_size
        ),
        "use a smaller block size in the workers",
    )
}

fn unexpected_hits(figures: &Figures) -> Option<Finding> {
    let share = of_served(enough(figures)?, |totals| totals.unexpected_tokens)?;
    (figures.mode.is_by_cost() && share > TOLERATED_DIFFERENCE).then_some(())?;
    finding(
        "unexpected_hits",
        format!(
            "engines found {:.0}% of the prompt tokens in caches where the router expected nothing",
            share * 100.0
        ),
        "events and requests name blocks differently: check that cache salts, LoRA names, block size and \
         tokenizer are the same on both sides",
    )
}

fn missing_hits(figures: &Figures) -> Option<Finding> {
    let share = of_served(enough(figures)?, |totals| totals.missing_tokens)?;
    (figures.mode.is_by_cost() && share > TOLERATED_DIFFERENCE).then_some(())?;
    finding(
        "missing_hits",
        format!(
            "{:.0}% of the prompt tokens were expected in caches and not found there",
            share * 100.0
        ),
        "caches may be too small for the traffic (raise the KV blocks), or a worker's tokenizer or chat \
         template differs from the frontend's",
    )
}

fn nothing_in_common(figures: &Figures) -> Option<Finding> {
    let infinite = enough(figures)?.rates().infinite?;
    (infinite < LITTLE_IN_COMMON).then_some(())?;
    finding(
        "nothing_in_common",
        format!(
            "only {:.1}% of the prompt tokens were ever seen before: even an infinite cache would not help",
            infinite * 100.0
        ),
        "put what prompts share (system prompt, documents, history) at their beginning, without dates or \
         ids before it",
    )
}

fn instances(figures: &Figures) -> usize {
    let mut instances: Vec<u64> = figures
        .workers
        .iter()
        .map(|it| it.worker.instance)
        .collect();
    instances.dedup();
    instances.len()
}

/// The recent requests, if there are enough of them.
fn enough(figures: &Figures) -> Option<&Totals> {
    Some(&figures.recent).filter(|recent| recent.requests >= ENOUGH_REQUESTS)
}

fn of_served(totals: &Totals, tokens: impl Fn(&Totals) -> u64) -> Option<f64> {
    let whole = totals.served_prompt_tokens;
    (whole > 0).then(|| tokens(totals) as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::{IndexFigures, WorkerFigures};
    use crate::router::NewsCounts;
    use dynamo_kv_router::WorkerKey;
    use dynamo_kv_router::mode::RouterMode;
    use dynamo_protocols::load::LoadReport;

    fn worker(instance: u64) -> WorkerFigures {
        let load = LoadReport {
            block_size: 16,
            ..LoadReport::default()
        };
        WorkerFigures {
            worker: WorkerKey {
                instance,
                dp_rank: 0,
            },
            requests: 0,
            prefill_tokens: 0,
            active_blocks: 0,
            cached_blocks: 10,
            load,
        }
    }

    /// A router that works as it should.
    fn healthy() -> Figures {
        let recent = Totals {
            requests: 100,
            prompt_tokens: 10_000,
            predicted_tokens: 5_000,
            reachable_tokens: 5_500,
            infinite_tokens: 6_000,
            served: 100,
            served_prompt_tokens: 10_000,
            cached_tokens: 5_000,
            ..Totals::default()
        };
        Figures {
            replicas: crate::replicas::ReplicaCounts::default(),
            mode: RouterMode::Kv,
            block_size: 16,
            workers: vec![worker(1), worker(2)],
            telling: 2,
            waiting_requests: 0,
            waiting_tokens: 0,
            totals: recent,
            recent,
            recent_rates: recent.rates(),
            index: IndexFigures::default(),
            news: NewsCounts::default(),
        }
    }

    fn causes(change: impl FnOnce(&mut Figures)) -> Vec<&'static str> {
        let mut figures = healthy();
        change(&mut figures);
        diagnose(&figures).iter().map(|it| it.cause).collect()
    }

    #[test]
    fn a_healthy_router_has_no_findings() {
        assert_eq!(causes(|_| {}), [""; 0]);
    }

    #[test]
    fn each_cause_is_told_from_the_others() {
        assert_eq!(causes(|it| it.workers.truncate(1)), ["workers"]);
        assert_eq!(causes(|it| it.mode = RouterMode::RoundRobin), ["mode"]);
        assert_eq!(causes(|it| it.telling = 1), ["silent_workers"]);
        assert_eq!(
            causes(|it| it.workers[1].load.block_size = 64),
            ["block_size"]
        );
        assert_eq!(causes(|it| it.index.counters.inconsistent = 1), ["hashes"]);
        assert_eq!(causes(|it| it.news.malformed = 1), ["unreadable_events"]);
        assert_eq!(causes(|it| it.index.counters.refused = 1), ["index_full"]);
        assert_eq!(causes(|it| it.news.lag_ms = 3_000), ["old_events"]);
        assert_eq!(causes(|it| it.recent.short_prompts = 60), ["short_prompts"]);
        assert_eq!(
            causes(|it| it.recent.unexpected_tokens = 4_000),
            ["unexpected_hits"]
        );
        assert_eq!(
            causes(|it| it.recent.missing_tokens = 4_000),
            ["missing_hits"]
        );
        assert_eq!(
            causes(|it| it.recent.infinite_tokens = 100),
            ["nothing_in_common"]
        );
    }

    #[test]
    fn few_requests_prove_nothing() {
        let few = |it: &mut Figures| {
            it.recent.requests = 10;
            it.recent.short_prompts = 10;
            it.recent.infinite_tokens = 0;
        };
        assert_eq!(causes(few), [""; 0]);
    }

    #[test]
    fn without_events_the_fix_is_about_the_workers() {
        let mut figures = healthy();
        figures.mode = RouterMode::LeastLoaded;
        figures.telling = 0;
        assert!(diagnose(&figures)[0].fix.contains("publish KV events"));
    }
}
