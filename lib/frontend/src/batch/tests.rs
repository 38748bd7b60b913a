//! Batches over the echo engine: every line gets one result, whatever happens in between.

use super::*;
use dynamo_llm::echo::EchoOptions;
use dynamo_llm::echo_model::echo_model;
use dynamo_llm::preprocess::PreprocessLimits;
use dynamo_llm::registry::ModelRegistry;
use dynamo_runtime::Environment;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

fn client() -> LocalClient {
    let registry = ModelRegistry::new();
    let model = echo_model("echo", EchoOptions::default()).expect("the template is sound");
    registry.add("echo", Arc::new(model));
    LocalClient::new(registry, Environment::system(), PreprocessLimits::default())
}

fn batch(folder: &Path, lines: &str) -> Batch {
    let input = folder.join("input.jsonl");
    std::fs::write(&input, lines).expect("the folder is writable");
    let options = BatchOptions {
        batch_concurrency: 2,
        ..BatchOptions::default()
    };
    Batch::new(client(), input, options)
}

fn results(folder: &Path) -> BTreeMap<u64, Value> {
    let text = std::fs::read_to_string(folder.join("output.jsonl")).expect("there are results");
    let values = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    values
        .map(|value| (value["line"].as_u64().expect("a number"), value))
        .collect()
}

#[tokio::test]
async fn each_line_gets_its_result_in_its_own_form_and_errors_stop_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let lines = concat!(
        "{\"text\": \"one\"}\n\n",
        "{\"custom_id\":\"c\",\"method\":\"POST\",\"url\":\"/v1/completions\",",
        "\"body\":{\"model\":\"echo\",\"prompt\":\"two\",\"max_tokens\":3}}\n",
        "not json\n",
        "{\"custom_id\":\"d\",\"method\":\"POST\",\"url\":\"/v1/completions\",",
        "\"body\":{\"model\":\"nobody\",\"prompt\":\"x\"}}\n",
        "{\"text\": \"five\"}",
    );
    let batch = batch(folder.path(), lines);
    assert_eq!(batch.count().unwrap(), 5);
    let summary = batch.run(&CancellationToken::new(), |_| {}).await.unwrap();
    assert!(!summary.interrupted);
    assert_eq!((summary.progress.done, summary.progress.failed), (5, 2));
    let results = results(folder.path());
    assert!(
        results[&1]["response"].as_str().unwrap().contains("one"),
        "{results:#?}"
    );
    assert_eq!(results[&3]["response"]["body"]["choices"][0]["text"], "tw");
    assert_eq!(results[&4]["error"]["code"], "invalid_json");
    assert_eq!(results[&5]["response"]["status_code"], 404);
    assert!(results[&6]["response"].as_str().unwrap().contains("five"));
}

#[tokio::test]
async fn a_run_that_was_cut_off_asks_only_what_has_no_result() {
    let folder = tempfile::tempdir().unwrap();
    let lines: String = (0..20)
        .map(|n| format!("{{\"text\": \"number {n}\"}}\n"))
        .collect();
    let first = batch(folder.path(), &lines);
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let summary = first
        .run(&cancel, |progress| {
            if progress.done == 7 {
                stop.cancel();
            }
        })
        .await
        .unwrap();
    assert!(summary.interrupted);
    let before = results(folder.path());
    assert_eq!(before.len(), 7);

    let summary = batch(folder.path(), &lines)
        .run(&CancellationToken::new(), |_| {})
        .await
        .unwrap();
    assert_eq!((summary.progress.done, summary.progress.resumed), (20, 7));
    let after = results(folder.path());
    assert_eq!(after.len(), 20);
    for (line, result) in before {
        assert_eq!(after[&line], result, "earlier results are kept as they are");
    }
}

#[tokio::test]
async fn results_of_another_input_are_not_mixed_in() {
    let folder = tempfile::tempdir().unwrap();
    let first = batch(folder.path(), "{\"text\": \"a\"}\n");
    first.run(&CancellationToken::new(), |_| {}).await.unwrap();
    let other = batch(folder.path(), "{\"text\": \"b\"}\n");
    let refused = other.run(&CancellationToken::new(), |_| {}).await;
    assert!(
        matches!(refused, Err(BatchError::OtherInput { line: 1, .. })),
        "{refused:?}"
    );
}
