//! What a request's body says of where it should run, checked. Headers may say more of it; they
//! are the frontend's to read.

use super::limits::at_most;
use dynamo_protocols::RequestError;
use dynamo_protocols::openai::nvext::NvExt;
use dynamo_protocols::routing::RouteHints;

/// Most taints of each kind: clusters have a handful of them.
const MAX_TAINTS: usize = 32;

/// Longest taint: those of Kubernetes, key and value, stay below.
const MAX_TAINT_BYTES: usize = 320;

/// The wishes in `nvext`.
pub(super) fn route_hints(nvext: &NvExt) -> Result<RouteHints, RequestError> {
    let agent = nvext.agent_hints.as_ref();
    let constraints = nvext.routing_constraints.as_ref();
    let required = constraints.and_then(|it| it.required_taints.clone());
    let preferred = constraints.and_then(|it| it.preferred_taints.clone());
    let hints = RouteHints {
        instance: nvext.decode_worker_id.or(nvext.backend_instance_id),
        prefill_instance: nvext.prefill_worker_id,
        dp_rank: nvext.dp_rank,
        strict_priority: agent.and_then(|it| it.strict_priority).unwrap_or(0),
        expected_output_tokens: agent.and_then(|it| it.osl),
        required_taints: required.unwrap_or_default(),
        preferred_taints: preferred.unwrap_or_default().into_iter().collect(),
        explain: asks_for(nvext, "routing"),
        ..RouteHints::default()
    };
    check_taints(&hints)?;
    Ok(hints)
}

fn asks_for(nvext: &NvExt, field: &str) -> bool {
    let fields = nvext.extra_fields.as_deref().unwrap_or_default();
    fields.iter().any(|name| name == field)
}

fn check_taints(hints: &RouteHints) -> Result<(), RequestError> {
    const FIELD: &str = "nvext.routing_constraints";
    at_most(FIELD, "taints", hints.required_taints.len(), MAX_TAINTS)?;
    at_most(FIELD, "taints", hints.preferred_taints.len(), MAX_TAINTS)?;
    let required = hints.required_taints.iter();
    let preferred = hints.preferred_taints.iter().map(|(taint, _)| taint);
    for taint in required.chain(preferred) {
        at_most(FIELD, "bytes in one taint", taint.len(), MAX_TAINT_BYTES)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(nvext: serde_json::Value) -> Result<RouteHints, RequestError> {
        route_hints(&serde_json::from_value(nvext).unwrap())
    }

    #[test]
    fn every_wish_is_taken_over() {
        let hints = hints(serde_json::json!({
            "backend_instance_id": 7,
            "prefill_worker_id": 8,
            "dp_rank": 2,
            "agent_hints": {"strict_priority": 3, "osl": 100},
            "routing_constraints": {
                "required_taints": ["gpu=h200"],
                "preferred_taints": {"spot": -0.5},
            },
            "extra_fields": ["routing"],
        }));
        let expected = RouteHints {
            instance: Some(7),
            prefill_instance: Some(8),
            dp_rank: Some(2),
            strict_priority: 3,
            expected_output_tokens: Some(100),
            required_taints: vec!["gpu=h200".to_owned()],
            preferred_taints: vec![("spot".to_owned(), -0.5)],
            explain: true,
            ..RouteHints::default()
        };
        assert_eq!(hints.unwrap(), expected);
    }

    #[test]
    fn too_many_or_too_long_taints_are_refused() {
        let many: Vec<String> = (0..33).map(|n| n.to_string()).collect();
        let long = vec!["x".repeat(321)];
        for required in [many, long] {
            let refused = hints(serde_json::json!({
                "routing_constraints": {"required_taints": required}
            }));
            let error = refused.unwrap_err();
            assert_eq!(error.param.as_deref(), Some("nvext.routing_constraints"));
        }
    }
}
