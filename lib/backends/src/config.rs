//! The options, each declared here and nowhere else.

use dynamo_config::{Secret, options};
use std::time::Duration;

/// Shortest of the time limits: below it even a server on this machine is given up.
const LEAST_TIMEOUT: Duration = Duration::from_millis(100);

/// Shortest interval of polls.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

options! {
    /// OpenAI-compatible servers that get requests as they are.
    pub struct BackendOptions("backends") {
        /// A server to pass requests on to, as `http://HOST:PORT`; may be given several times. The
        /// same as `out=http://HOST:PORT`.
        backend: Vec<String> = Vec::new(), env = "DYN_BACKENDS";
        /// Where a server publishes its KV events, as `tcp://HOST:PORT`; once for each server, in
        /// their order, or `none` for one that does not. Needs the model's tokenizer.
        kv_events: Vec<String> = Vec::new(), env = "DYN_BACKEND_KV_EVENTS";
        /// Where a server repeats KV events that were missed, as `tcp://HOST:PORT`; in the same
        /// order.
        kv_events_replay: Vec<String> = Vec::new(), env = "DYN_BACKEND_KV_EVENTS_REPLAY";
        /// What the topics of KV events begin with.
        kv_events_topic: String = String::new(), env = "DYN_BACKEND_KV_EVENTS_TOPIC";
        /// Tokens per KV block of the servers. If not given, the first event tells, and without
        /// events it is 16.
        kv_block_size: Option<u32> = None, env = "DYN_KV_BLOCK_SIZE", min = 1, max = 65_536;
        /// Key for the servers: for asking what they serve, and for requests that bring none.
        backend_api_key: Option<Secret> = None, env = "DYN_BACKEND_API_KEY";
        /// How often a server is asked what it serves.
        backend_poll_interval: Duration = Duration::from_secs(2),
            env = "DYN_BACKEND_POLL_INTERVAL", min = LEAST_INTERVAL;
        /// How long it may take to answer that.
        backend_poll_timeout: Duration = Duration::from_secs(3),
            env = "DYN_BACKEND_POLL_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long a connection to a server may take.
        backend_connect_timeout: Duration = Duration::from_secs(2),
            env = "DYN_BACKEND_CONNECT_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long the head of a streamed answer may take. Other answers have the request's time.
        backend_head_timeout: Duration = Duration::from_secs(600),
            env = "DYN_BACKEND_HEAD_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long an answer may stand still once it began.
        backend_idle_timeout: Duration = Duration::from_secs(120),
            env = "DYN_BACKEND_IDLE_TIMEOUT", min = LEAST_TIMEOUT;
        /// Send every request to the one server of `out=`, a balancer, and only compare its
        /// choices with the router's.
        shadow: bool = false, env = "DYN_SHADOW";
        /// A server behind that balancer, as `http://HOST:PORT`; may be given several times.
        shadow_worker: Vec<String> = Vec::new(), env = "DYN_SHADOW_WORKER";
        /// Response headers in which the balancer tells who served; the first that is there counts.
        shadow_header: Vec<String> =
            vec!["x-dynamo-worker-instance-id".to_owned(), "x-served-by".to_owned()],
            env = "DYN_SHADOW_HEADER";
        /// Requests after which the comparison is logged.
        shadow_log_every: u64 = 1_000, env = "DYN_SHADOW_LOG_EVERY", min = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let problems = Schema::new().with::<BackendOptions>().check();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
