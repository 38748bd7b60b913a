//! KV-aware routing, pure: which worker holds which blocks, and which worker a request goes to.
//!
//! Invariant: no I/O, no clock, no task. Time and randomness are arguments.
