//! What is sent and when: pure functions of options and a seed.

pub(crate) mod arrivals;
pub(crate) mod length;
pub(crate) mod plan;
pub(crate) mod trace;

pub use arrivals::{Arrivals, Spacing};
pub use length::Length;
pub use plan::{Conversation, Plan, Shape, Source, Turn};
pub use trace::{TraceError, TraceRequest, read_trace};
