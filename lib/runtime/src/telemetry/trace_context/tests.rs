//! Trace contexts against the W3C rules: round trips, malformed input, sampling.

use super::*;
use proptest::prelude::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const BITS: RandomBits = [1, 2, 3];

fn incoming(traceparent: &[&str], tracestate: &[&str]) -> TraceContext {
    TraceContext::incoming(traceparent, tracestate, BITS, Sampler::NEVER)
}

#[test]
fn a_request_joins_its_callers_trace() {
    let context = incoming(&[PARENT], &["a=b"]);
    assert_eq!(
        context.trace_id().to_string(),
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    assert_eq!(context.parent_id().unwrap().to_string(), "00f067aa0ba902b7");
    assert_eq!(context.span_id().to_string(), "0000000000000003");
    assert!(context.sampled());
    assert_eq!(context.tracestate(), Some("a=b"));
    let child = context.child(9);
    assert_eq!(
        child.traceparent(),
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000009-01"
    );
    assert_eq!(child.parent_id(), Some(context.span_id()));
    assert_eq!(child.tracestate(), Some("a=b"));
}

#[test]
fn a_malformed_parent_starts_a_new_trace_without_its_state() {
    let malformed = [
        "",
        "00",
        "garbage",
        // Upper case, all zeros, the forbidden version, a version that is no number.
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "0x-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        // Too long, too short, wrong separators, a sign where a digit should be.
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e47-36-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-.1",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
    ];
    for text in malformed {
        let context = incoming(&[text], &["a=b"]);
        assert_eq!(context, TraceContext::root(BITS, Sampler::NEVER), "{text}");
        assert_eq!(context.tracestate(), None, "{text}");
    }
    let twice = incoming(&[PARENT, PARENT], &[]);
    assert_eq!(twice, TraceContext::root(BITS, Sampler::NEVER));
    assert_eq!(incoming(&[], &["a=b"]), twice);
}

#[test]
fn a_later_version_is_read_as_far_as_it_is_known() {
    let ids = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    for text in [format!("cc-{ids}-ff"), format!("cc-{ids}-ff-what-comes")] {
        let parent = Traceparent::parse(&text).unwrap();
        assert_eq!(parent.flags, SAMPLED, "{text}");
    }
}

#[test]
fn a_malformed_state_is_dropped_alone() {
    let long_key = format!("{}=v", "k".repeat(257));
    let long_value = format!("k={}", "v".repeat(257));
    let many = (0..33)
        .map(|n| format!("k{n}=v"))
        .collect::<Vec<_>>()
        .join(",");
    let malformed = ["nothing", "K=v", "k=", "k=a=b", "k=é", "k=1,k=2", "=v"];
    for state in malformed
        .into_iter()
        .chain([long_key.as_str(), &long_value, &many])
    {
        let context = incoming(&[PARENT], &[state]);
        assert_eq!(context.tracestate(), None, "{state}");
        assert!(context.parent_id().is_some(), "{state}");
    }
}

#[test]
fn states_of_several_headers_are_one_list_without_empty_members() {
    let context = incoming(&[PARENT], &[" a=1 ,, b@c=2", "\td=3"]);
    assert_eq!(context.tracestate(), Some("a=1,b@c=2,d=3"));
}

#[test]
fn a_state_that_is_too_long_keeps_its_first_members() {
    let member = |key: &str| format!("{key}={}", "v".repeat(250));
    let state = [member("a"), member("b"), member("c")].join(",");
    let context = incoming(&[PARENT], &[&state]);
    assert_eq!(
        context.tracestate(),
        Some([member("a"), member("b")].join(",").as_str())
    );
}

#[test]
fn a_request_carries_its_senders_place() {
    let frontend = incoming(&[PARENT], &["a=b"]);
    let mut request = RequestContext::default();
    let worker = |request: &RequestContext| TraceContext::received(request, [4; 3], Sampler::NEVER);
    assert_eq!(worker(&request).parent_id(), None);
    frontend.stamp(&mut request);
    assert_eq!(worker(&request), frontend.child(4));
}

#[test]
fn zeros_from_the_random_source_still_give_valid_ids() {
    let context = TraceContext::root([0; 3], Sampler::ratio(1.0));
    assert!(Traceparent::parse(&context.traceparent()).is_some());
}

#[test]
fn ratios_outside_their_range_are_brought_inside() {
    assert_eq!(Sampler::ratio(-1.0), Sampler::NEVER);
    assert_eq!(Sampler::ratio(f64::NAN), Sampler::NEVER);
    assert_eq!(Sampler::ratio(7.0), Sampler::ratio(1.0));
}

/// Text that is likely to be nearly right.
fn nearly_a_traceparent() -> impl Strategy<Value = String> {
    (0..PARENT.len(), any::<char>(), any::<bool>()).prop_map(|(at, other, insert)| {
        let mut text: Vec<char> = PARENT.chars().collect();
        if insert {
            text.insert(at, other);
        } else {
            text[at] = other;
        }
        text.into_iter().collect()
    })
}

proptest! {
    #[test]
    fn what_is_sent_is_understood(bits in any::<[u64; 3]>(), child in any::<u64>(), ratio in 0.0..1.0) {
        let context = TraceContext::root(bits, Sampler::ratio(ratio)).child(child);
        let header = context.traceparent();
        let parsed = Traceparent::parse(&header).unwrap();
        prop_assert_eq!(parsed.trace_id, context.trace_id());
        prop_assert_eq!(parsed.span_id, context.span_id());
        let joined = TraceContext::incoming(&[&header], &[], [0, 0, child.wrapping_add(1)], Sampler::NEVER);
        prop_assert_eq!(joined.trace_id(), context.trace_id());
        prop_assert_eq!(joined.parent_id(), Some(context.span_id()));
        prop_assert_eq!(joined.sampled(), context.sampled());
    }

    #[test]
    fn what_is_accepted_can_be_formatted_and_read_again(text in nearly_a_traceparent()) {
        if let Some(parent) = Traceparent::parse(&text) {
            let context = incoming(&[&text], &[]);
            let again = Traceparent::parse(&context.traceparent()).unwrap();
            prop_assert_eq!(again.trace_id, parent.trace_id);
            prop_assert_eq!(again.flags, parent.flags);
        }
    }

    #[test]
    fn any_text_is_judged_without_panic(parent in any::<String>(), state in any::<String>()) {
        let context = incoming(&[&parent], &[&state]);
        prop_assert!(Traceparent::parse(&context.traceparent()).is_some());
    }

    #[test]
    fn an_accepted_state_is_accepted_again_unchanged(
        members in proptest::collection::vec("[a-c]{1,2}[_@]?=[ -~]{0,80}", 0..8)
    ) {
        let first = accepted_tracestate(&[&members.join(",")]);
        prop_assert!(first.len() <= TRACESTATE_BYTES);
        prop_assert_eq!(accepted_tracestate(&[&first]), first);
    }

    #[test]
    fn sampling_follows_the_random_bits(bits in any::<[u64; 3]>(), ratio in 0.0..=1.0_f64) {
        let share = (bits[1] & ((1 << 56) - 1)) as f64 / (1_u64 << 56) as f64;
        let sampled = TraceContext::root(bits, Sampler::ratio(ratio)).sampled();
        // Right at the border rounding may decide either way.
        prop_assume!((share - ratio).abs() > 1e-9);
        prop_assert_eq!(sampled, share < ratio);
    }

    #[test]
    fn all_and_nothing_are_exact(bits in any::<[u64; 3]>()) {
        prop_assert!(TraceContext::root(bits, Sampler::ratio(1.0)).sampled());
        prop_assert!(!TraceContext::root(bits, Sampler::ratio(0.0)).sampled());
    }
}
