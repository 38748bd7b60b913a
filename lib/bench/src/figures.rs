//! What requests come to: pure, in bounded memory.

pub(crate) mod goodput;
pub(crate) mod histogram;
pub(crate) mod record;
pub(crate) mod statistics;
pub(crate) mod timeline;

pub use goodput::Targets;
pub use histogram::{Histogram, Summary, milliseconds};
pub use record::{End, Failure, Record, RequestFigures, Usage};
pub use statistics::{ErrorCount, Statistics, Tokens};
pub use timeline::{Bin, Timeline};
