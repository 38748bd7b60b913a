//! A Python handler as a model's engine.
//!
//! What the engine is doing is what the handler's publishers say; where they say nothing, what this
//! counts: requests in flight, and the limits that the registration names.

use crate::embed::{self, Vectors};
use crate::json;
use crate::model::Registration;
use crate::outlet::Answer;
use crate::publish::Told;
use crate::serve::{Body, Function, PortOf};
use crate::text::Chunks;
use crate::tokens::{self, Tokens};
use dynamo_llm::card::ModelInput;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest, EngineStream, KvEventStream,
    RequestContext, StopConditions, TextRequest,
};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::openai::stream::Api;
use dynamo_protocols::structured::StructuredSupport;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::request_plane::RequestHeader;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::watch;

/// Tokens that a canary asks for where its payload names no number.
const CANARY_TOKENS: u32 = 1;

/// See the module's description.
pub(crate) struct PythonEngine {
    function: Arc<Function>,
    endpoint: EndpointId,
    canary: Option<EngineRequest>,
    structured: StructuredSupport,
    told: Arc<Told>,
    input: ModelInput,
    /// It generates, and does not embed alone.
    generates: bool,
    shared: Arc<Shared>,
}

/// What streams and publishers tell the engine.
pub(crate) struct Shared {
    /// What is always true of it.
    limits: LoadReport,
    steps: AtomicU64,
    in_flight: watch::Sender<u32>,
}

impl PythonEngine {
    pub(crate) fn new(
        function: Arc<Function>,
        endpoint: EndpointId,
        canary: Option<EngineRequest>,
        told: Arc<Told>,
        registration: &Registration,
    ) -> Self {
        let types = registration.types;
        Self {
            function,
            endpoint,
            canary,
            structured: registration.structured,
            told,
            input: registration.input,
            generates: types.chat || types.completions,
            shared: Arc::new(Shared {
                limits: registration.limits.clone(),
                steps: AtomicU64::new(0),
                in_flight: watch::Sender::new(0),
            }),
        }
    }

    fn header(&self, context: &RequestContext) -> RequestHeader {
        let id = Arc::clone(&context.request_id);
        let instance = InstanceId::from_bits(1);
        let mut header = RequestHeader::new(id, self.endpoint.clone(), instance);
        header.traceparent.clone_from(&context.traceparent);
        header.tracestate.clone_from(&context.tracestate);
        header
    }
}

impl Engine for PythonEngine {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let header = self.header(&context);
        let id = context.request_id;
        let (body, port): (Body, PortOf<EngineOutput>) = match (self.input, &request.text) {
            (ModelInput::Tokens, None) => (
                Box::new(move |py| Ok(tokens::request(py, &request, &id)?.into_any())),
                Tokens::port,
            ),
            (ModelInput::Text, Some(text)) => {
                (json::load(Arc::clone(text)), Chunks::port(text.api))
            }
            (ModelInput::Tokens, Some(_)) => return refuse("tokens", "text"),
            (ModelInput::Text, None) => return refuse("text", "tokens"),
        };
        let answer = self.function.call(header, body, port);
        let in_flight = InFlight::of(&self.shared);
        Box::pin(async move {
            let outputs = Outputs {
                answer: answer.await?,
                in_flight,
            };
            Ok(Box::pin(outputs) as EngineStream)
        })
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        let header = self.header(&context);
        let body = match (self.input, &request.text) {
            (ModelInput::Tokens, None) => embed::request(request, context.request_id),
            (ModelInput::Text, Some(_)) => embed::load(request),
            (ModelInput::Tokens, Some(_)) => return refuse("tokens", "text"),
            (ModelInput::Text, None) => return refuse("text", "tokens"),
        };
        let answer = self.function.call(header, body, Vectors::port);
        let in_flight = InFlight::of(&self.shared);
        Box::pin(async move {
            let answer = embed::whole(answer.await?).await;
            in_flight.0.steps.fetch_add(1, Ordering::Relaxed);
            answer
        })
    }

    fn structured_output(&self) -> StructuredSupport {
        self.structured
    }

    fn load(&self) -> LoadReport {
        let ranks = 0..self.told.ranks();
        let used = ranks.map(|rank| self.told.load(rank).used_blocks.unwrap_or(0));
        let mut load = self.shared.limits.clone();
        load.scheduled.num_decode_requests = *self.shared.in_flight.borrow();
        load.used_blocks = used.sum();
        load
    }

    fn rank_load(&self, rank: u32) -> LoadReport {
        let ranks = self.told.ranks();
        let mut load = self.load();
        // Which rank has which request is the engine's to know.
        load.scheduled.num_decode_requests = load.scheduled.num_decode_requests.div_ceil(ranks);
        load.used_blocks = self.told.load(rank).used_blocks.unwrap_or(0);
        load
    }

    fn ranks(&self) -> u32 {
        self.told.ranks()
    }

    fn kv_events(&self) -> Option<KvEventStream> {
        self.told.events(0)
    }

    fn rank_kv_events(&self, rank: u32) -> Option<KvEventStream> {
        self.told.events(rank)
    }

    fn canary(&self) -> Option<EngineRequest> {
        let canary = self.canary.as_ref()?;
        let is_text = canary.text.is_some();
        let fits = self.generates && is_text == (self.input == ModelInput::Text);
        fits.then(|| canary.clone())
    }

    fn steps(&self) -> u64 {
        self.shared.steps.load(Ordering::Relaxed)
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        let mut in_flight = self.shared.in_flight.subscribe();
        Box::pin(async move {
            // The sender lives as long as the engine.
            drop(in_flight.wait_for(|count| *count == 0).await);
        })
    }
}

impl fmt::Debug for PythonEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PythonEngine")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// A request that has not ended.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn of(shared: &Arc<Shared>) -> Self {
        shared.in_flight.send_modify(|count| *count += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.send_modify(|count| *count -= 1);
    }
}

struct Outputs {
    answer: Answer<EngineOutput>,
    in_flight: InFlight,
}

impl Stream for Outputs {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.answer).poll_next(cx);
        if matches!(next, Poll::Ready(Some(Ok(_)))) {
            self.in_flight.0.steps.fetch_add(1, Ordering::Relaxed);
        }
        next
    }
}

/// The error for a request in another form than the worker's card promises.
fn refuse<T>(takes: &str, came: &str) -> BoxFuture<'static, Result<T, RequestError>>
where
    T: Send + 'static,
{
    Box::pin(ready(Err(RequestError::new(
        ErrorCode::WorkerProtocol,
        format!("this worker takes {takes} and was sent {came}: its caller has not read its card"),
    ))))
}

/// A health check's payload as a request; `None` for one that is neither tokens nor a request of a
/// client: a plain endpoint's.
pub(crate) fn canary(payload: &Bound<'_, PyDict>) -> PyResult<Option<EngineRequest>> {
    for (key, api) in [("messages", Api::Chat), ("prompt", Api::Completions)] {
        if payload.contains(key)? {
            let body = json::text(payload)?.into();
            return Ok(Some(EngineRequest {
                text: Some(Arc::new(TextRequest { api, body })),
                ..EngineRequest::default()
            }));
        }
    }
    let Some(tokens) = payload.get_item("token_ids")? else {
        return Ok(None);
    };
    let max_tokens = match payload.get_item("stop_conditions")? {
        Some(stop) => match stop.cast::<PyDict>()?.get_item("max_tokens")? {
            Some(most) => most.extract()?,
            None => CANARY_TOKENS,
        },
        None => CANARY_TOKENS,
    };
    if let Ok(lists) = tokens.cast::<PyList>()
        && lists.iter().any(|it| it.is_instance_of::<PyList>())
    {
        // Inputs to embed: engines are asked to generate.
        return Ok(None);
    }
    Ok(Some(EngineRequest {
        prompt_ids: tokens.extract::<Vec<u32>>()?.into(),
        stop: StopConditions {
            max_tokens,
            ignore_eos: true,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }))
}
