//! Names of objects made of names in the graph.

/// Longest name of an object of a component. Pods, their labels and controller revisions are
/// named after it with up to 11 more characters (`-` and a hash), and 63 is their limit.
pub(crate) const MAX_OBJECT_NAME: usize = 52;

/// What the name of a component with several nodes gets: `-`, the number of the replica, and the
/// longer of `-leader` and `-follower`.
pub(crate) const NODES_SUFFIX: usize = "-999-follower".len();

/// The DNS label that a name becomes.
pub(crate) fn label(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_labels() {
        assert_eq!(label("vllm_worker"), "vllm-worker");
        assert_eq!(label("HTTP_Ingress2"), "http-ingress2");
    }
}
