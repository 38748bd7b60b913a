//! Options of `dynamo simulate`.

use dynamo_config::options;

options! {
    /// Which runs of the simulator.
    pub struct SimulateOptions("simulate") {
        /// Seed of the first run: it decides who is there, what is asked and what fails.
        seed: u64 = 0, env = "DYN_SIMULATE_SEED";
        /// How many runs, with the seeds that follow. One run tells its story; of several, those
        /// that break an invariant are named.
        seeds: u64 = 1, env = "DYN_SIMULATE_SEEDS", min = 1, max = 100_000_000;
        /// Runs at a time; not given, as many as there are cores.
        simulate_threads: Option<u32> = None, env = "DYN_SIMULATE_THREADS", min = 1, max = 1_024;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let problems = Schema::new().with::<SimulateOptions>().check();
        assert!(problems.is_empty(), "{problems:?}");
    }
}
