//! Prompts and request bodies.

mod body;
mod words;

pub use body::{Api, Asking, Bodies, Dialogue};
pub use words::write_words;
