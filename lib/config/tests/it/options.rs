//! The options that the other tests declare, and how they give them.

use dynamo_config::{
    ByteSize, ConfigError, ConfigFile, Format, Resolved, Schema, Secret, Sources, choices, options,
};
use std::path::PathBuf;
use std::time::Duration;

choices! {
    /// How a worker is picked.
    pub(crate) enum RouterMode {
        /// By cached prefix and load.
        Kv = "kv",
        /// In turn.
        RoundRobin = "round-robin" | "rr",
    }
}

options! {
    /// Options of the HTTP frontend.
    pub(crate) struct FrontendOptions("frontend") {
        /// Port of the HTTP server; 0 takes a free one.
        http_port: u16 = 8000, env = "DYN_HTTP_PORT", short = 'p', alias = "--port";
        /// Address of the HTTP server.
        http_host: String = "127.0.0.1".to_owned(), env = "DYN_HTTP_HOST";
        /// Key that clients have to send.
        api_key: Option<Secret> = None, env = "DYN_API_KEY", secret;
        /// Longest time a request may take.
        request_timeout: Duration = Duration::from_secs(600), min = Duration::from_secs(1);
        /// Largest body of a request.
        body_limit: ByteSize = ByteSize::mib(45), env = "DYN_HTTP_BODY_LIMIT";
        /// Use what workers tell about their caches.
        ///
        /// Without it, the router guesses from what it sent where.
        kv_events: bool = true, env = "DYN_KV_EVENTS", deprecated = "--use-kv-events";
        /// Names to serve the model under.
        model_name: Vec<String> = Vec::new(), env = "DYN_MODEL_NAME";
    }
}

options! {
    /// Options of the router.
    pub(crate) struct RouterOptions("router") {
        /// How a worker is picked.
        router_mode: RouterMode = RouterMode::Kv, env = "DYN_ROUTER_MODE", env = "DYN_MODE";
        /// Randomness of the pick.
        temperature: f64 = 0.0, flag = "--router-temperature", range = 0.0..=2.0;
        /// Requests that may wait.
        queue_limit: Option<u32> = Some(64), env = "DYN_QUEUE_LIMIT", min = 1;
        /// Port of the status server; -1 opens none.
        system_port: i32 = -1, env = "DYN_SYSTEM_PORT", range = -1..=65535;
        /// File of decisions.
        decision_log: Option<PathBuf> = None;
    }
}

pub(crate) fn schema() -> Schema {
    Schema::new()
        .with::<FrontendOptions>()
        .with::<RouterOptions>()
}

pub(crate) fn command() -> clap::Command {
    schema().clap_args(clap::Command::new("frontend"))
}

/// Sources with a command line.
pub(crate) fn args(words: &[&str]) -> Sources {
    let words = std::iter::once("frontend").chain(words.iter().copied());
    Sources::new().args(
        command()
            .try_get_matches_from(words)
            .expect("clap takes the words"),
    )
}

/// Sources with a YAML file.
pub(crate) fn yaml(text: &str) -> Sources {
    Sources::new().file(ConfigFile::new("serve.yaml", text, Format::Yaml))
}

/// Sources with a TOML file.
pub(crate) fn toml(text: &str) -> Sources {
    Sources::new().file(ConfigFile::new("serve.toml", text, Format::Toml))
}

pub(crate) fn resolve(sources: &Sources) -> Result<Resolved, ConfigError> {
    schema().resolve(sources)
}

/// What is wrong with the sources, one message per line.
pub(crate) fn refusal(sources: &Sources) -> String {
    resolve(sources)
        .expect_err("something is wrong")
        .to_string()
}

pub(crate) fn frontend(sources: &Sources) -> FrontendOptions {
    resolve(sources)
        .expect("nothing is wrong")
        .get::<FrontendOptions>()
        .clone()
}

pub(crate) fn router(sources: &Sources) -> RouterOptions {
    resolve(sources)
        .expect("nothing is wrong")
        .get::<RouterOptions>()
        .clone()
}
