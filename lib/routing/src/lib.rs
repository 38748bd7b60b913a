//! What workers tell of their KV caches and their load, and the router that hears it and chooses.
//!
//! The decisions are those of `dynamo-kv-router`; this crate brings it its events, its clock and
//! its randomness, and tells it what became of the requests.
//!
//! - [`news`]: a worker publishes what happens to its engine
//! - [`router`]: the router of one model's workers
//! - [`call`]: a request on its way to a worker, refusals included
//! - [`figures`], [`diagnosis`]: the router in numbers, and what they say is wrong
//! - [`placement`]: the same for a worker that is no engine of ours
//! - [`replicas`]: what routers of the same workers tell each other
//! - [`account`]: an answer that tells the router how far it is

pub mod account;
pub mod call;
pub mod diagnosis;
pub mod figures;
mod members;
pub mod news;
pub mod placement;
mod question;
pub mod replicas;
pub mod router;

pub use call::RoutedCall;
pub use placement::Placement;
pub use question::Prompt;
pub use router::{FedSetup, RouterFeed, RouterSetup, WorkerRouter};
