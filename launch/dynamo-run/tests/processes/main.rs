//! Real processes of the `dynamo` binary on the echo engine: start, serve, die, drain.

#[cfg(test)]
mod harness;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod usage;
