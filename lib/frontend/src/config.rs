//! The frontend's options, each declared here and nowhere else.

use crate::metrics::DEFAULT_PREFIX;
use dynamo_config::{ByteSize, Secret, options};
use std::path::PathBuf;
use std::time::Duration;

/// Shortest of the time limits: below it even a client on this machine is cut off.
const LEAST_TIMEOUT: Duration = Duration::from_millis(100);

options! {
    /// The HTTP frontend: where it listens, whom it lets in, and what it bears.
    pub struct FrontendOptions("frontend") {
        /// Address to listen on. Other machines reach only what does not listen on loopback.
        http_host: String = "127.0.0.1".to_owned(), env = "DYN_HTTP_HOST";
        /// Port to listen on; 0 takes a free one.
        http_port: u16 = 8000, env = "DYN_HTTP_PORT", short = 'p', alias = "--port";
        /// Key that lets clients in; may be given several times. Without one everybody is let in.
        api_key: Vec<Secret> = Vec::new(), env = "DYN_API_KEY";
        /// File with one such key per line; lines that begin with `#` do not count.
        api_key_file: Option<PathBuf> = None, env = "DYN_API_KEY_FILE";
        /// Largest body of a request.
        http_body_limit: ByteSize = ByteSize::mib(45), env = "DYN_HTTP_BODY_LIMIT";
        /// Largest sum of a request's header names and values.
        http_header_limit: ByteSize = ByteSize::kib(32), env = "DYN_HTTP_HEADER_LIMIT";
        /// Most headers of a request.
        http_max_headers: usize = 100, env = "DYN_HTTP_MAX_HEADERS", min = 1;
        /// How long a client may take to send a request's head, and an idle connection is kept.
        http_header_timeout: Duration = Duration::from_secs(30),
            env = "DYN_HTTP_HEADER_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long a client may take to send a request's body.
        http_body_timeout: Duration = Duration::from_secs(60),
            env = "DYN_HTTP_BODY_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long a client may take nothing of what is sent to it.
        http_write_timeout: Duration = Duration::from_secs(60),
            env = "DYN_HTTP_WRITE_TIMEOUT", min = LEAST_TIMEOUT;
        /// Most connections at once; more wait until one ends.
        http_max_connections: u32 = 8_192, env = "DYN_HTTP_MAX_CONNECTIONS", min = 1;
        /// Most requests for models at once; more are refused with 429.
        http_max_requests: u32 = 4_096, env = "DYN_HTTP_MAX_REQUESTS", min = 1;
        /// How long a request may take as a whole.
        http_request_timeout: Duration = Duration::from_secs(3_600),
            env = "DYN_HTTP_REQUEST_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long the head of a streamed response waits for the first output, so that an early
        /// failure becomes a status rather than an event.
        http_error_peek: Duration = Duration::from_secs(2), env = "DYN_HTTP_ERROR_PEEK";
        /// Most tokens of a prompt, if that is to be less than the model's context.
        max_prompt_tokens: Option<u32> = None, env = "DYN_MAX_PROMPT_TOKENS", min = 1;
        /// What the names of metrics begin with.
        metrics_prefix: String = DEFAULT_PREFIX.to_owned(), env = "DYN_METRICS_PREFIX";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let problems = Schema::new().with::<FrontendOptions>().check();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
