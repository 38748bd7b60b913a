//! The crate as its users see it: options declared, given from every source, and shown.

mod documents;
mod messages;
mod options;
mod precedence;
mod sources;
