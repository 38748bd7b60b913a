//! A served model: everything a request for it needs, in one place.

use crate::card::ModelCard;
use crate::template::ChatTemplate;
use dynamo_protocols::engine::Engine;
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_routing::WorkerRouter;
use std::sync::Arc;

/// A model as the pipeline sees it. The engine may be in this process or stand for any number of
/// workers.
#[derive(Debug, Clone)]
pub struct ServedModel {
    /// What is known about the model.
    pub card: ModelCard,
    /// Text to tokens and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Messages to text; without one the model serves no chat.
    pub template: Option<Arc<ChatTemplate>>,
    /// What generates.
    pub engine: Arc<dyn Engine>,
    /// Who picks the worker, where the engine stands for several.
    pub router: Option<Arc<WorkerRouter>>,
}
