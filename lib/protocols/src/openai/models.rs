//! The model list.

use serde::Serialize;

/// What `/v1/models` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: &'static str,
    /// The models, sorted by name.
    pub data: Vec<ModelEntry>,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelEntry {
    /// The served name.
    pub id: String,
    /// Always `model`.
    pub object: &'static str,
    /// When it was added, in seconds since 1970.
    pub created: u64,
    /// Who serves it.
    pub owned_by: &'static str,
    /// Most tokens of prompt and answer together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_window: Option<u64>,
}

impl ModelList {
    /// A list of these models.
    pub fn new(data: Vec<ModelEntry>) -> Self {
        Self {
            object: "list",
            data,
        }
    }
}

impl ModelEntry {
    /// A model that was added at `created`.
    pub fn new(id: impl Into<String>, created: u64, context_window: Option<u64>) -> Self {
        Self {
            id: id.into(),
            object: "model",
            created,
            owned_by: "dynamo",
            context_window,
        }
    }
}
