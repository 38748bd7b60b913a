//! Simulated workers as processes: a fleet behind a frontend, and what it refuses to start with.

use crate::process::{Place, until};
use crate::workers::FRONTEND;
use rustix::process::Signal;

/// A chat whose prompt fills several blocks of 16 bytes.
fn long_chat() -> String {
    serde_json::json!({
        "model": "mock",
        "messages": [{"role": "user", "content": "a word or two ".repeat(20)}],
        "max_tokens": 6,
    })
    .to_string()
}

#[test]
fn a_simulated_fleet_serves_reuses_its_prefixes_and_drains() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let words = ["mocker", "--num-workers", "3", "--block-size", "16"];
    let mut fleet = place.start("fleet", &words);
    assert_eq!(fleet.address, "dyn://dynamo.backend.generate");
    frontend.await_models(&["mock"]);
    let mut cached = 0;
    // However requests are spread over the three, one of them sees the prompt again.
    until("a prefix was reused", || {
        let answer = frontend.post("/v1/chat/completions", &long_chat());
        assert_eq!(answer.status, 200);
        let usage = &answer.json()["usage"];
        assert_eq!(usage["completion_tokens"], 6);
        cached = usage["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .unwrap();
        cached > 0
    });
    assert_eq!(cached % 16, 0, "blocks are cached whole");
    fleet.signal(Signal::TERM);
    assert_eq!(fleet.wait().code, Some(0));
    frontend.await_models(&[]);
}

#[test]
fn a_fleet_that_cannot_be_says_why() {
    let place = Place::new();
    let refused: &[(&[&str], i32, &str)] = &[
        (&["--num-workers", "0"], 2, "--num-workers"),
        (&["--model-path", "/no/such/folder"], 1, "/no/such/folder"),
        (
            &[
                "--num-gpu-blocks-override",
                "10",
                "--max-model-len",
                "100000",
            ],
            1,
            "raise --num-gpu-blocks-override",
        ),
        (&["--endpoint", "dyn://a.b.c.d"], 1, "--endpoint"),
    ];
    for (words, code, said) in refused {
        let ended = place.run(&[&["mocker"], *words].concat());
        assert_eq!(ended.code, Some(*code), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
}
