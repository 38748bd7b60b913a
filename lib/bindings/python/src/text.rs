//! What handlers of models that take text yield: the chunks that the client gets.
//!
//! A chunk that no client could read is an error at its `yield`. When the handler ends, so does the
//! answer; whether all of it was there is judged by whoever reads it.

use crate::json;
use crate::outlet::Outlet;
use crate::serve::{Port, PortOf};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{EngineOutput, FinishReason};
use dynamo_protocols::openai::chunk;
use dynamo_protocols::openai::stream::Api;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::sync::Arc;

/// See the module's description.
pub(crate) struct Chunks {
    api: Api,
    outlet: Arc<Outlet<EngineOutput>>,
}

impl Chunks {
    /// What makes a port for answers of this kind.
    pub(crate) fn port(api: Api) -> PortOf<EngineOutput> {
        match api {
            Api::Chat => |outlet| {
                Box::new(Self {
                    api: Api::Chat,
                    outlet,
                })
            },
            Api::Completions => |outlet| {
                Box::new(Self {
                    api: Api::Completions,
                    outlet,
                })
            },
        }
    }
}

impl Port for Chunks {
    fn send(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        let text = json::text(item)?;
        chunk::read(self.api, &text).map_err(|error| {
            let kind = match self.api {
                Api::Chat => "chat.completion.chunk",
                Api::Completions => "text_completion",
            };
            PyValueError::new_err(format!("what was yielded is no {kind}: {}", error.message))
        })?;
        Ok(self.outlet.put(EngineOutput {
            chunk: Some(text.into()),
            ..EngineOutput::default()
        }))
    }

    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.outlet.room(py)
    }

    fn end(&self, end: Result<(), RequestError>) {
        if end.is_ok() {
            self.outlet.put(EngineOutput {
                finish_reason: Some(FinishReason::EndOfSequence),
                ..EngineOutput::default()
            });
        }
        self.outlet.end(end);
    }
}
