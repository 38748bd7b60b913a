//! What the feed of a router does to its choices.

use super::*;
use dynamo_kv_router::Tier;
use dynamo_kv_router::mode::RouterMode;
use dynamo_protocols::kv::KvEvent;
use dynamo_tokens::{HashContext, block_hashes, sequence_hashes};

const BLOCK: NonZeroU32 = NonZeroU32::new(4).unwrap();

fn fed(options: RouterOptions) -> (WorkerRouter, RouterFeed, Tasks) {
    let tasks = Tasks::root();
    let (router, feed) = WorkerRouter::fed(FedSetup {
        environment: Environment::system(),
        tasks: tasks.clone(),
        block_size: BLOCK,
        options,
    });
    (router, feed, tasks)
}

fn holds(tokens: &[u32]) -> TierEvent {
    let hashes = block_hashes(tokens, 4, &HashContext::new());
    let blocks = hashes.iter().zip(sequence_hashes(&hashes));
    let blocks = blocks.map(|(block, sequence)| dynamo_protocols::kv::Block {
        block_hash: *block,
        sequence_hash: sequence,
    });
    let event = KvEvent::Stored {
        parent: None,
        blocks: blocks.collect(),
    };
    TierEvent {
        tier: Tier::Device,
        event,
    }
}

fn key(instance: u64) -> WorkerKey {
    WorkerKey {
        instance,
        dp_rank: 0,
    }
}

#[tokio::test]
async fn a_prompt_goes_where_its_prefix_is() {
    let (router, mut feed, _tasks) = fed(RouterOptions::default());
    feed.set_members(&[1, 2, 3]);
    let tokens: Vec<u32> = (0..16).collect();
    feed.apply(key(2), &[holds(&tokens)]);
    let prompt = Prompt {
        tokens: &tokens,
        isl_tokens: 16,
        ..Prompt::default()
    };
    let placement = router.place(&prompt, None).await.unwrap();
    assert_eq!(placement.worker(), key(2));
    assert_eq!(placement.predicted_tokens(), 16);
    assert_eq!(router.figures().mode, RouterMode::Kv);
    feed.reset(2);
    drop(placement);
    let placement = router.place(&prompt, None).await.unwrap();
    assert_eq!(placement.predicted_tokens(), 0);
}

#[tokio::test]
async fn a_prompt_stays_among_who_is_allowed_and_leaves_who_failed() {
    let (router, mut feed, _tasks) = fed(RouterOptions::default());
    feed.set_members(&[1, 2, 3]);
    let prompt = Prompt {
        isl_tokens: 8,
        allowed: Some(&[1, 3]),
        ..Prompt::default()
    };
    let mut placement = router.place(&prompt, None).await.unwrap();
    let first = placement.worker().instance;
    assert!([1, 3].contains(&first));
    assert!(placement.again(&[first]));
    assert_eq!(placement.worker().instance, 4 - first);
    assert!(!placement.again(&[1, 3]));
    let load = |router: &WorkerRouter| -> u32 {
        let workers = router.figures().workers;
        workers.iter().map(|it| it.requests).sum()
    };
    assert_eq!(load(&router), 1);
    drop(placement);
    assert_eq!(load(&router), 0);
}

#[tokio::test]
async fn tokens_that_come_are_the_end_of_the_prefill() {
    let (router, mut feed, _tasks) = fed(RouterOptions::default());
    feed.set_members(&[1]);
    let prompt = Prompt {
        isl_tokens: 10,
        ..Prompt::default()
    };
    let mut placement = router.place(&prompt, None).await.unwrap();
    assert_eq!(router.figures().workers[0].prefill_tokens, 10);
    placement.generated(3);
    assert_eq!(router.figures().workers[0].prefill_tokens, 0);
    placement.end(Some(4), dynamo_kv_router::decision_log::End::Finished);
    let outcome = router.with_router(|it| it.decisions().iter().next().unwrap().outcome);
    let outcome = outcome.unwrap();
    assert_eq!((outcome.cached_tokens, outcome.output_tokens), (Some(4), 3));
}
