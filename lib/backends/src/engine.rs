//! The engine of a model that servers compute: it computes nothing. Requests for the model go to
//! its servers as they are; whoever asks the engine itself is told so.

use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineRequest, EngineStream, RequestContext,
};
use dynamo_protocols::error::ErrorCode;
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::structured::StructuredSupport;
use futures_core::future::BoxFuture;
use std::future::ready;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Elsewhere;

fn elsewhere() -> RequestError {
    RequestError::new(
        ErrorCode::UnsupportedParameter,
        "the model is computed by http servers, which are asked over http only",
    )
}

impl Engine for Elsewhere {
    fn generate(
        &self,
        _request: EngineRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(ready(Err(elsewhere())))
    }

    fn embed(
        &self,
        _request: EmbedRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        Box::pin(ready(Err(elsewhere())))
    }

    /// It is not sent any: the servers get their clients' fields as they are, and judge them.
    fn structured_output(&self) -> StructuredSupport {
        StructuredSupport::Replayed
    }

    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(ready(()))
    }
}
