//! Layered options: one declaration drives command line, environment, file and reference.
