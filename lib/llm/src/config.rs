//! Options of serving a model, each declared here and nowhere else.

use dynamo_config::{ByteSize, options};
use dynamo_protocols::deadline::Deadlines;
use std::path::PathBuf;
use std::time::Duration;

/// Less would refuse everything.
const LEAST_TIMEOUT: Duration = Duration::from_millis(1);

options! {
    /// Which model, and how it is called.
    pub struct ModelOptions("model") {
        /// The model: a GGUF file, a Hugging Face folder, or a Hugging Face id, which is fetched.
        model_path: Option<String> = None, env = "DYN_MODEL_PATH", alias = "--model";
        /// The name that clients ask for. If not given, it is made of the model's path or id.
        model_name: Option<String> = None, env = "DYN_MODEL_NAME";
        /// File with a Jinja chat template to use instead of the model's own.
        custom_jinja_template: Option<PathBuf> = None, env = "DYN_CUSTOM_JINJA_TEMPLATE";
    }
}

options! {
    /// What processes fetch from each other.
    pub struct ArtefactOptions("artefacts") {
        /// Folder for tokenizers and templates that come from workers, and for what is made of
        /// model files for others to fetch. If not given: `dynamo` in the user's cache folder.
        artefact_cache: Option<PathBuf> = None, env = "DYN_ARTEFACT_CACHE";
    }
}

options! {
    /// Where a worker serves.
    pub struct WorkerPlaceOptions("worker") {
        /// The endpoint that the worker serves. What is missing of it is `--namespace`, `backend`
        /// and `generate`.
        endpoint: String = "dyn://".to_owned(), env = "DYN_ENDPOINT";
    }
}

options! {
    /// From requests to prompts.
    pub struct PreprocessOptions("preprocess") {
        /// Most memory for the tokens of prompts' beginnings, so that a conversation that goes on
        /// is not tokenised from its beginning again; 0 remembers nothing.
        prompt_token_cache_size: ByteSize = ByteSize::mib(16), env = "DYN_PROMPT_TOKEN_CACHE_SIZE";
    }
}

options! {
    /// What a request may take on its way, and how often it may move.
    pub struct DeliveryOptions("delivery") {
        /// How often an answer may move to another worker because one failed; 0: never.
        migration_limit: u32 = 16, env = "DYN_MIGRATION_LIMIT", max = 1_023;
        /// Longest answer that moves, prompt included, in tokens; all do if not given.
        migration_max_seq_len: Option<u32> = None, env = "DYN_MIGRATION_MAX_SEQ_LEN";
        /// How long a request waits for a worker, also for one that is starting.
        queue_timeout: Duration = Duration::from_secs(60), env = "DYN_QUEUE_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long a worker may take to take a request before another one is asked.
        dispatch_timeout: Duration = Duration::from_secs(15), env = "DYN_DISPATCH_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long the first token may take, from when a worker has the request.
        first_token_timeout: Duration = Duration::from_secs(300), env = "DYN_FIRST_TOKEN_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long an answer may stand still between two tokens.
        inter_token_timeout: Duration = Duration::from_secs(60), env = "DYN_INTER_TOKEN_TIMEOUT", min = LEAST_TIMEOUT;
        /// How long a model stays listed after its last worker left; its requests wait meanwhile.
        model_linger: Duration = Duration::from_secs(30), env = "DYN_MODEL_LINGER";
    }
}

impl DeliveryOptions {
    /// The deadlines of a request that asks for none of its own.
    pub fn deadlines(&self) -> Deadlines {
        Deadlines {
            queue: Some(self.queue_timeout),
            dispatch: Some(self.dispatch_timeout),
            first_token: Some(self.first_token_timeout),
            inter_token: Some(self.inter_token_timeout),
        }
    }
}

options! {
    /// The echo engine, which gives the prompt back.
    pub struct EchoEngineOptions("echo") {
        /// Wait before each token.
        token_echo_delay: Duration = Duration::ZERO, env = "DYN_TOKEN_ECHO_DELAY";
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let schema = Schema::new()
            .with::<ModelOptions>()
            .with::<PreprocessOptions>()
            .with::<DeliveryOptions>()
            .with::<EchoEngineOptions>();
        assert_eq!(schema.check(), [""; 0]);
    }
}
