//! Options of `faults`.

use dynamo_config::{choices, options};
use std::path::PathBuf;
use std::time::Duration;

choices! {
    /// A run of the suite.
    pub enum Scenario {
        /// Simulated workers are killed and frozen.
        Workers = "workers",
        /// Workers with a real model are killed and frozen.
        Model = "model",
        /// One of two frontends is killed.
        Frontends = "frontends",
        /// Routers between frontend and workers are killed and frozen.
        Routers = "routers",
        /// etcd and nats-server are killed, away, frozen.
        Planes = "planes",
        /// All workers and frontends are restarted in turn.
        Rolling = "rolling",
        /// Network namespaces that are cut off, with requests over tcp.
        Network = "network",
        /// The same with requests over NATS.
        NetworkNats = "network-nats",
        /// What does not survive, and the errors that it gives.
        Limits = "limits",
    }
}

options! {
    /// Which faults, and under how much load.
    pub struct FaultOptions("faults") {
        /// Runs to make; all of them if none is named.
        scenario: Vec<Scenario> = Vec::new();
        /// Decides what is asked, who fails when, and how.
        seed: u64 = 1;
        /// Requests of runs that ask a number of them.
        requests: u32 = 1_000, min = 1, max = 1_000_000;
        /// Workers of a fleet.
        workers: u32 = 4, min = 2, max = 64;
        /// Time from one fault to the next.
        every: Duration = Duration::from_secs(5), min = Duration::from_millis(500);
        /// Requests at once.
        concurrency: u32 = 16, min = 1, max = 512;
        /// How long etcd is away.
        outage: Duration = Duration::from_secs(60), min = Duration::from_secs(1);
        /// The real model, a GGUF file.
        model: PathBuf = PathBuf::from(".models/gemma-3-270m-q4_k_m.gguf");
        /// Tokenizer and template of the simulated model.
        tokenizer: PathBuf = PathBuf::from(".models/tokenizers/qwen3");
    }
}

impl FaultOptions {
    /// The runs to make.
    pub fn scenarios(&self) -> &[Scenario] {
        match self.scenario.is_empty() {
            true => Scenario::ALL,
            false => &self.scenario,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let problems = Schema::new().with::<FaultOptions>().check();
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(FaultOptions::default().scenarios(), Scenario::ALL);
    }
}
