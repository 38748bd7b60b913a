//! KV state from one engine to another.

use crate::support::{engine, generate, long_prompt, options, outputs, request, start, tokens};
use dynamo_protocols::engine::Engine;
use dynamo_protocols::kv::{Block, KvEvent};
use dynamo_tokens::{HashContext, TokenBlocks};
use futures_util::{FutureExt, StreamExt};
use std::num::NonZeroUsize;

fn blocks(prompt: &[u32], salt: Option<&str>) -> Vec<Block> {
    let size = NonZeroUsize::new(32).unwrap();
    let mut named = TokenBlocks::new(size, HashContext::of(None, salt));
    named.extend(prompt);
    named.blocks().to_vec()
}

#[tokio::test]
async fn an_imported_prefix_is_reused_and_gives_the_same_text() {
    // Longer than the model's attention window of 512.
    let prompt = long_prompt(1, 620);
    let from = engine(&options());
    let expected = generate(&from, request(&prompt, 12)).await;
    let transfer = from.kv_transfer().unwrap();
    let range = transfer.export(blocks(&prompt, None)).await.unwrap();
    assert_eq!(range.blocks.len(), 19);
    assert_eq!(range.token_ids, prompt[..608]);

    let to = engine(&options());
    let mut events = to.kv_events().unwrap();
    let import = to.kv_transfer().unwrap();
    assert_eq!(import.layout(), transfer.layout());
    assert_eq!(import.import(range.clone()).await, Ok(19));
    assert_eq!(import.import(range.clone()).await, Ok(19), "twice is once");
    let moved = outputs(start(&to, request(&prompt, 12)).await).await;
    assert_eq!(moved[0].cached_tokens, Some(608));
    assert_eq!(tokens(&moved), expected);
    // The imported state is whole at every block, not at its end alone.
    let mut branch = prompt[..100].to_vec();
    branch.push(7_000);
    let moved = outputs(start(&to, request(&branch, 8)).await).await;
    assert_eq!(moved[0].cached_tokens, Some(96));
    assert_eq!(tokens(&moved), generate(&from, request(&branch, 8)).await);

    let batch = events.next().now_or_never().unwrap().unwrap();
    assert!(
        matches!(&batch.events[0], KvEvent::Stored { parent: None, blocks } if blocks.len() == 19)
    );
}

#[tokio::test]
async fn what_is_not_there_exports_as_nothing_and_what_does_not_fit_is_refused() {
    let engine = engine(&options());
    let prompt = long_prompt(1, 70);
    let mut ask = request(&prompt, 1);
    ask.cache_salt = Some("tenant".into());
    generate(&engine, ask).await;
    let transfer = engine.kv_transfer().unwrap();
    let nothing = transfer.export(blocks(&prompt, None)).await.unwrap();
    assert!(nothing.blocks.is_empty() && nothing.state.is_empty());
    assert_eq!(transfer.import(nothing).await, Ok(0));

    let range = transfer
        .export(blocks(&prompt, Some("tenant")))
        .await
        .unwrap();
    assert_eq!(range.blocks.len(), 2);
    let mut other_model = range.clone();
    other_model.layout.model.push('x');
    assert!(transfer.import(other_model).await.is_err());
    let mut damaged = range.clone();
    let middle = damaged.state.len() / 2;
    damaged.state[middle] ^= 1;
    assert!(transfer.import(damaged).await.is_err());
    assert_eq!(generate(&engine, request(&prompt, 2)).await.len(), 2);
}
