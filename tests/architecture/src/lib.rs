//! The shape of the workspace as pure checks: which crate may depend on which, and what a source
//! file may not contain. The tests in `tests/` run them over the checkout.

/// Layers from the bottom up. A crate depends only on crates of lower layers, except where a
/// [`SAME_LAYER`] edge is argued.
pub const LAYERS: &[&[&str]] = &[
    // Vocabulary: no I/O, no logging.
    &["dynamo-tokens", "dynamo-protocols", "dynamo-config"],
    // Real processes and servers for tests: knows the binary and no crate.
    &["dynamo-testkit"],
    // Mechanism and pure domain.
    &[
        "dynamo-runtime",
        "dynamo-gguf",
        "dynamo-graph",
        "dynamo-kv-router",
    ],
    // Mechanism over mechanism: what other systems' engines publish, planes with a broker, graphs
    // as processes.
    &["dynamo-engine-events", "dynamo-nats", "dynamo-deploy"],
    // Workers' news, and whom to ask.
    &["dynamo-routing"],
    // The model's side: pipeline and engines.
    &["dynamo-llm", "dynamo-llamacpp", "dynamo-mocker"],
    // Servers that are not ours, as workers.
    &["dynamo-backends"],
    // Services, and traffic in virtual time.
    &["dynamo-replay", "dynamo-frontend"],
    // Components of their own beside frontend and workers: the router, the metrics.
    &["dynamo-router-service", "dynamo-metrics"],
    // Everything wired together.
    &[
        "dynamo-run",
        "dynamo-sim",
        "dynamo-bench",
        "dynamo-architecture",
        "dynamo-fuzz",
        "dynamo-fault-tolerance",
    ],
    // The same for who comes from Python.
    &["dynamo-python"],
];

/// Edges inside one layer that are allowed.
pub const SAME_LAYER: &[(&str, &str)] = &[
    // Blocks are named by the hashes that KV events carry.
    ("dynamo-tokens", "dynamo-protocols"),
    // The binary hosts the bench command.
    ("dynamo-run", "dynamo-bench"),
    // And the simulator.
    ("dynamo-run", "dynamo-sim"),
];

/// What is wrong with `from` depending on `to`, if anything. Crates outside the workspace are
/// no concern of this check.
pub fn judge_edge(from: &str, to: &str) -> Option<String> {
    let layer = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    match (layer(from), layer(to)) {
        (None, _) => Some(format!("{from} has no layer: add it to LAYERS")),
        (_, None) => None,
        (Some(upper), Some(lower)) if lower < upper => None,
        _ if SAME_LAYER.contains(&(from, to)) => None,
        _ => Some(format!(
            "{from} must not depend on {to}: it is not in a lower layer"
        )),
    }
}

/// A broken house rule: its line (from 1) and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Line number, from 1.
    pub line: usize,
    /// What is wrong and how to mend it.
    pub message: String,
}

/// Checks one Rust source file against the rules that no compiler lint covers.
pub fn judge_source(text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(Finding {
            line: 1,
            message: "open the file with //! saying what it owns".to_owned(),
        });
    }
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let code = line.split("//").next().unwrap_or_default().trim();
        let next = lines.get(index + 1).map_or("", |next| next.trim());
        if code.contains("select! {") && !code.contains("biased;") && next != "biased;" {
            findings.push(Finding {
                line: index + 1,
                message: "a select without biased; draws random numbers of its own".to_owned(),
            });
        }
    }
    findings
}

/// Production lines of a file: everything before its test module.
pub fn production_lines(text: &str) -> usize {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upward_edge_is_refused() {
        assert!(judge_edge("dynamo-protocols", "dynamo-runtime").is_some());
        assert!(judge_edge("dynamo-llm", "dynamo-llamacpp").is_some());
        assert!(judge_edge("dynamo-runtime", "dynamo-protocols").is_none());
        assert!(judge_edge("dynamo-runtime", "serde").is_none());
        assert!(judge_edge("dynamo-new", "serde").is_some());
    }

    #[test]
    fn a_fair_select_and_a_missing_head_are_found() {
        let text = "//! Owns nothing.\nfn f() { tokio::select! {\n a = b => {} } }\n";
        assert_eq!(judge_source(text).len(), 1);
        let text = "//! Owns nothing.\ntokio::select! {\n    biased;\n a = b => {} }\n";
        assert_eq!(judge_source(text), []);
        assert_eq!(judge_source("fn main() {}\n")[0].line, 1);
    }

    #[test]
    fn tests_do_not_count_as_production_lines() {
        assert_eq!(
            production_lines("//! A.\nfn a() {}\n#[cfg(test)]\nmod tests {}\n"),
            2
        );
    }
}
