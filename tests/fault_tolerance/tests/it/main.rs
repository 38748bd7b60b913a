//! The suite in short, with real processes: few requests, faults close together.

#[cfg(test)]
mod short;
