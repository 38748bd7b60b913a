//! The suite that every request-plane backend passes.
