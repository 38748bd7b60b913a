//! Items of a response stream and the positions they cover.
//!
//! The trait stands here because the transport that numbers items must not know the types, and
//! the types must not know the transport.

use crate::engine::{EmbedResponse, EngineOutput};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// An item of a response stream.
pub trait StreamItem: Serialize + DeserializeOwned + Send + 'static {
    /// How many positions of the stream the item covers.
    fn positions(&self) -> u32 {
        1
    }
}

impl StreamItem for EngineOutput {
    /// One per token, or per chunk of text.
    fn positions(&self) -> u32 {
        self.amount()
    }
}

impl StreamItem for EmbedResponse {}
impl StreamItem for String {}
impl StreamItem for serde_json::Value {}
