//! Structured output: what of the vocabulary may come next, so that the whole answer keeps to a
//! schema, an expression, a list of texts or a grammar.
//!
//! The matching is done by the crate `llguidance`. llama.cpp has a grammar sampler of its own, which
//! would be no further dependency; it knows one form (GBNF), runs its grammar over every token of
//! the vocabulary at every step (tens of milliseconds for 262,144 tokens, against tens of
//! microseconds here), aborts the process on some grammars, and is part of llama.cpp's samplers,
//! which draw by a generator with a state: this engine's draws are functions of seed and position.
//! Here a constraint is nothing but a set of tokens that is put on the logits before the engine's
//! own sampler sees them, so that penalties, temperature, seeds and log probabilities mean what
//! they mean without it.
//!
//! - `vocabulary`: the bytes of each token, and which tokens end an answer
//! - `compile`: from a request's constraint to a grammar; what is refused
//! - `gbnf`: llama.cpp's form of grammars in Lark's
//! - `matching`: a constraint at one place of an answer
//! - `workshop`: the thread that compiles, and its cache
//! - `masks`: the thread that works out what may come next while llama.cpp computes
//!
//! Invariants
//! - Nothing is compiled or worked out on the engine's thread or on an async one: a constraint that
//!   is hard to follow holds up its own answer and no other.
//! - The state of a constraint is a function of the generated tokens, which a moved answer brings
//!   along: replaying them gives the state that the other worker had.
//! - A compiled constraint is shared by nobody: each answer has a copy, whose caches end with it.
//!
//! What it does not do: force tokens. A text can be written in tokens in several ways; which one
//! is the model's to choose, also where the text itself is certain.

mod compile;
mod gbnf;
mod masks;
mod matching;
#[cfg(test)]
mod tests;
mod vocabulary;
mod workshop;

pub(crate) use masks::Masks;
pub(crate) use matching::Matching;
pub(crate) use vocabulary::Vocabulary;
pub(crate) use workshop::{Prepared, Workshop};
