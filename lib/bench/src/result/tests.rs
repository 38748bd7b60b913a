//! What a result says of itself.

use super::*;
use crate::figures::record::tests::answered;
use crate::figures::{Record, Targets, Usage};

/// A result of a few requests.
pub(crate) fn sample() -> ServeResult {
    let mut statistics = Statistics::new(Targets::parse("ttft:5ms").ok());
    for number in 0..20 {
        let mut record = answered(number * 100, &[4_000, 6_000, 9_000]);
        record.lag = Some(Duration::from_micros(number));
        record.usage = Some(Usage {
            prompt: 100,
            completion: 10,
            cached: Some(0),
        });
        statistics.add(&record);
    }
    ServeResult {
        options: BenchServeOptions::default(),
        model: "<m> & \"co\"".to_owned(),
        statistics,
        memory: None,
        elapsed: Duration::from_secs(2),
        started_unix: Duration::from_secs(1_700_000_000),
        is_interrupted: false,
        is_open: true,
        cost: ClientCost {
            cpu: Duration::from_millis(10),
            elapsed: Duration::from_secs(2),
            threads: 1,
            held_back: 0,
        },
    }
}

#[test]
fn figures_follow_from_the_statistics() {
    let result = sample();
    let json = result.whole_json();
    assert_eq!(json["requests"]["completed"], 20);
    assert_eq!(json["goodput"]["share"], 1.0);
    assert_eq!(json["tokens"]["output"], 200);
    assert_eq!(json["client"]["cpu_us_per_token"], 50.0);
    assert_eq!(json["client"]["is_bottleneck"], false);
    assert_eq!(json["output_tokens_from"], "usage");
    assert_eq!(json["single_requests"].as_array().unwrap().len(), 20);
    assert_eq!(json["single_requests_left_out"], 0);
    assert_eq!(json["notes"], json!([]));
    let rate = json["throughput"]["requests_per_s"].as_f64().unwrap();
    assert!((rate - 20.0 / 1.909).abs() < 1e-6, "{rate}");
}

fn only_note(change: impl FnOnce(&mut ServeResult)) -> String {
    let mut result = sample();
    change(&mut result);
    let notes = result.notes();
    assert_eq!(notes.len(), 1, "{notes:?}");
    notes[0].clone()
}

#[test]
fn a_client_that_was_the_bottleneck_says_so() {
    let note = only_note(|it| it.cost.cpu = Duration::from_millis(1_900));
    assert!(note.contains("--client-threads"), "{note}");
    let late = |result: &mut ServeResult| {
        for _ in 0..20 {
            result.statistics.lag.add(Duration::from_secs(1));
        }
    };
    let note = only_note(late);
    assert!(note.contains("got no CPU in time"), "{note}");
    let note = only_note(|result| {
        late(result);
        result.cost.held_back = 7;
        assert!(!result.is_client_bound());
    });
    assert!(note.contains("raise --concurrency"), "{note}");
}

#[test]
fn counts_that_are_not_what_was_asked_for_are_said() {
    let note = only_note(|it| it.statistics.tokens.prompt_reported *= 5);
    assert!(note.contains("--words-per-token 0.20"), "{note}");
    let note = only_note(|it| it.statistics.tokens.output /= 4);
    assert!(note.contains("0.25 tokens"), "{note}");
    let note = only_note(|it| it.statistics.add(&answered(5, &[1; 10])));
    assert!(
        note.contains("1 of 21 answers came without usage"),
        "{note}"
    );
    let note = only_note(|it| it.is_interrupted = true);
    assert!(note.contains("up to then"), "{note}");
    let note = only_note(|it| {
        it.statistics.add(&Record {
            end: crate::figures::End::Failed(crate::figures::Failure::Status {
                status: 400,
                code: Some("unknown_field".to_owned()),
                message: "unknown field ignore_eos".to_owned(),
            }),
            ..answered(5, &[])
        });
    });
    assert!(note.contains("--no-ignore-eos"), "{note}");
}
