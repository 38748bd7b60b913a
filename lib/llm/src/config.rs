//! Options of serving a model, each declared here and nowhere else.

use dynamo_config::{ByteSize, options};
use std::path::PathBuf;
use std::time::Duration;

options! {
    /// Which model, and how it is called.
    pub struct ModelOptions("model") {
        /// The model: a GGUF file, a Hugging Face folder, or a Hugging Face id, which is fetched.
        model_path: Option<String> = None, env = "DYN_MODEL_PATH", alias = "--model";
        /// The name that clients ask for. If not given, it is made of the model's path or id.
        model_name: Option<String> = None, env = "DYN_MODEL_NAME";
        /// File with a Jinja chat template to use instead of the model's own.
        custom_jinja_template: Option<PathBuf> = None, env = "DYN_CUSTOM_JINJA_TEMPLATE";
        /// Folder for tokenizers and templates that come from workers, and for what is made of
        /// model files for others to fetch. If not given: `dynamo` in the user's cache folder.
        artefact_cache: Option<PathBuf> = None, env = "DYN_ARTEFACT_CACHE";
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
            .with::<EchoEngineOptions>();
        assert_eq!(schema.check(), [""; 0]);
    }
}
