//! The simulation smoke test: echo across two hosts with one partition, replayed.

#[cfg(test)]
mod echo;
