//! What workers announce and frontends make of it: names, contradictions, files.

use crate::process::{Dynamo, Place, until};
use crate::serving::chat;
use crate::workers::{FRONTEND, WORKER, counted};
use std::path::PathBuf;

/// A Hugging Face folder with a real tokenizer and no weights, in the test's own place.
fn qwen_folder(place: &Place) -> PathBuf {
    let source = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../.models/tokenizers/qwen3"
    );
    let folder = place.path("qwen");
    std::fs::create_dir(&folder).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = PathBuf::from(source).join(file);
        let copied = std::fs::copy(&from, folder.join(file));
        assert!(copied.is_ok(), "{} is missing: make models", from.display());
    }
    let config =
        "{\"model_type\": \"qwen3\", \"vocab_size\": 151936, \"max_position_embeddings\": 40960}";
    std::fs::write(folder.join("config.json"), config).unwrap();
    folder
}

fn says(frontend: &Dynamo, model: &str, text: &str) -> String {
    let answer = frontend.post("/v1/chat/completions", &chat(model, text, false));
    let answer = answer.json();
    let content = answer["choices"][0]["message"]["content"].as_str();
    content.unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[test]
fn models_on_one_endpoint_get_their_own_requests_only() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let echo = counted(&place, "echo", WORKER);
    let named = [WORKER, &["--model-name", "parrot"]].concat();
    let parrot = counted(&place, "parrot", &named);
    frontend.await_models(&["echo", "parrot"]);
    for _ in 0..3 {
        assert_eq!(says(&frontend, "echo", "hello"), "hello");
    }
    assert_eq!(says(&frontend, "parrot", "polly"), "polly");
    assert_eq!((echo.requests_taken(), parrot.requests_taken()), (3, 1));
}

#[test]
fn a_worker_that_contradicts_a_served_model_is_refused_and_gets_no_requests() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let words = [WORKER, &["--model-name", "twin"]].concat();
    let first = counted(&place, "first", &words);
    frontend.await_models(&["twin"]);
    let folder = qwen_folder(&place);
    let words = [&*words, &[folder.to_str().unwrap()]].concat();
    let second = counted(&place, "second", &words);
    frontend.await_log("announces another model under the name twin");
    for _ in 0..6 {
        assert_eq!(says(&frontend, "twin", "hello"), "hello");
    }
    assert_eq!((first.requests_taken(), second.requests_taken()), (6, 0));
    // With the first one gone the name is free.
    drop(first);
    until("the second one serves the name", || {
        second.requests_taken() > 0 || {
            let body = chat("twin", "hello", false);
            frontend.post("/v1/chat/completions", &body);
            false
        }
    });
    assert!(says(&frontend, "twin", "hello").contains("hello"));
}

#[test]
fn a_tokenizer_travels_to_the_frontend_by_its_hash() {
    let place = Place::new();
    let folder = qwen_folder(&place);
    let words = [WORKER, &["--model-name", "qwen", folder.to_str().unwrap()]].concat();
    let _worker = place.start("worker", &words);
    let cache = place.path("fetched");
    let words = [FRONTEND, &["--artefact-cache", cache.to_str().unwrap()]].concat();
    let frontend = place.start("frontend", &words);
    frontend.await_models(&["qwen"]);
    assert!(says(&frontend, "qwen", "many words").contains("many words"));
    let fetched: Vec<String> = std::fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(fetched.len(), 2, "{fetched:?}");
    for name in fetched {
        assert!(
            name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{name} is no hash"
        );
    }
    // The worker's files changed: a frontend that has them not yet takes no others for them.
    let tokenizer = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    std::fs::write(&tokenizer, text.replacen("\"version\"", "\"Version\"", 1)).unwrap();
    let cache = place.path("fetched afresh");
    let words = [FRONTEND, &["--artefact-cache", cache.to_str().unwrap()]].concat();
    let other = place.start("other", &words);
    other.await_log("model qwen is announced and cannot be served");
    other.await_log("its file changed or was damaged");
    assert_eq!(other.models(), [""; 0]);
    // The one that has them goes on.
    assert!(says(&frontend, "qwen", "many words").contains("many words"));
}

#[test]
fn an_endpoint_given_by_name_is_the_only_one_that_is_served() {
    let place = Place::new();
    let _echo = place.start("echo", WORKER);
    let named = ["run", "in=dyn://dynamo.other.generate", "out=echo"];
    let _parrot = place.start(
        "parrot",
        &[&named[..], &["--model-name", "parrot"]].concat(),
    );
    let all = place.start("all", FRONTEND);
    all.await_models(&["echo", "parrot"]);
    let words = ["run", "in=http", "out=dyn://dynamo.other.generate"];
    let one = place.start("one", &[&words[..], &["--http-port", "0"]].concat());
    one.await_models(&["parrot"]);
    assert_eq!(says(&one, "parrot", "polly"), "polly");
}

#[test]
fn a_namespace_parts_deployments_that_share_a_discovery_folder() {
    let place = Place::new();
    let with = |words: &[&'static str], namespace| [words, &["--namespace", namespace]].concat();
    let blue = place.start("blue", &with(&["run", "in=dyn://", "out=echo"], "blue"));
    assert_eq!(blue.address, "dyn://blue.backend.generate");
    let words = ["run", "in=dyn://", "out=echo", "--model-name", "parrot"];
    let _green = place.start("green", &with(&words, "green"));
    let all = place.start("all", FRONTEND);
    all.await_models(&["echo", "parrot"]);
    let one = place.start("one", &with(FRONTEND, "green"));
    one.await_models(&["parrot"]);
    assert_eq!(says(&one, "parrot", "polly"), "polly");
    // Given by the environment it means the same.
    let mut command = place.command(FRONTEND);
    command.env("DYN_NAMESPACE", "blue");
    let other = place.serve("other", command);
    other.await_models(&["echo"]);
}

/// Memory of a process that is in RAM, as its metrics have it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn resident_megabytes(process: &Dynamo) -> f64 {
    let metrics = process.get("/metrics");
    let text = metrics.text();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    value.unwrap().parse::<f64>().unwrap() / f64::from(1 << 20)
}

/// The tokenizer needs some 20 MB, and glibc keeps 50 more that loading it freed unless it is told
/// to give them back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_frontend_gives_back_what_loading_a_tokenizer_freed() {
    let place = Place::new();
    let folder = qwen_folder(&place);
    let words = [WORKER, &[folder.to_str().unwrap()]].concat();
    let _worker = counted(&place, "worker", &words);
    let frontend = place.start("frontend", FRONTEND);
    until("a model is served", || !frontend.models().is_empty());
    until("the memory is given back", || {
        resident_megabytes(&frontend) < 60.0
    });
}
