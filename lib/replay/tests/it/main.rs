//! Whole systems in virtual time.

#[cfg(test)]
mod replicas;
