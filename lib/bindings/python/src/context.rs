//! What travels beside a request: its id, whether it is still wanted, its deadline and trace.

use crate::home::{Home, threads};
use crate::span::{OpenSpans, Span};
use dynamo_protocols::engine::RequestContext;
use dynamo_runtime::Environment;
use dynamo_runtime::environment::RandomSource;
use dynamo_runtime::request_plane::RequestHeader;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Whether a request is still wanted.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    stopped: CancellationToken,
    killed: AtomicBool,
    /// Somebody waits to be told.
    awaited: AtomicBool,
}

impl Wanted {
    /// Nobody waits for more.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Whoever asked has gone away.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
        self.stopped.cancel();
    }

    /// Whether the handler waits to be told, and ends by itself.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire)
    }

    /// Resolves when it is not wanted any more.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.stopped
    }
}

/// A request's id, and whether it is still wanted. Handlers get one with each request; clients may
/// give one with a call, to stop it or to name it.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct Context {
    id: Arc<str>,
    wanted: Arc<Wanted>,
    deadline: Option<Instant>,
    traceparent: Option<Arc<str>>,
    tracestate: Option<Arc<str>>,
    metadata: Py<PyDict>,
    /// Spans that were started here and are open, the innermost last.
    spans: Arc<OpenSpans>,
    /// Where it waits for being stopped; none for one that was made by a client.
    home: Option<Arc<Home>>,
}

impl Context {
    /// The context of a request that came.
    pub(crate) fn received(
        py: Python<'_>,
        header: &RequestHeader,
        wanted: Arc<Wanted>,
        home: Arc<Home>,
    ) -> Self {
        Self {
            id: Arc::clone(&header.request_id),
            wanted,
            deadline: header.deadline,
            traceparent: header.traceparent.clone(),
            tracestate: header.tracestate.clone(),
            metadata: PyDict::new(py).unbind(),
            spans: Arc::default(),
            home: Some(home),
        }
    }

    pub(crate) fn wanted(&self) -> &Arc<Wanted> {
        &self.wanted
    }

    /// What a call takes along of it.
    pub(crate) fn request_context(&self) -> RequestContext {
        RequestContext {
            request_id: Arc::clone(&self.id),
            traceparent: self.innermost(),
            tracestate: self.tracestate.clone(),
            ..RequestContext::default()
        }
    }

    /// What names the innermost open span, or the request's own.
    fn innermost(&self) -> Option<Arc<str>> {
        self.spans.innermost().or_else(|| self.traceparent.clone())
    }

    /// When whoever asks loses interest.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[pymethods]
impl Context {
    #[new]
    #[pyo3(signature = (id=None, metadata=None))]
    fn new(py: Python<'_>, id: Option<String>, metadata: Option<Py<PyDict>>) -> Self {
        Self {
            id: id.map_or_else(new_id, Arc::from),
            wanted: Arc::default(),
            deadline: None,
            traceparent: None,
            tracestate: None,
            metadata: metadata.unwrap_or_else(|| PyDict::new(py).unbind()),
            spans: Arc::default(),
            home: None,
        }
    }

    /// The request's id, the same on every attempt.
    fn id(&self) -> &str {
        &self.id
    }

    /// Whether nobody waits for more.
    fn is_stopped(&self) -> bool {
        self.wanted.stopped.is_cancelled()
    }

    /// Whether whoever asked has gone away, or this process ends.
    fn is_killed(&self) -> bool {
        self.wanted.killed.load(Ordering::Acquire)
    }

    /// Asks for the answer to end.
    fn stop_generating(&self) {
        self.wanted.stop();
    }

    /// Resolves when nobody waits for more. Within a handler only, which is then not cancelled at once
    /// but has five seconds to end by itself.
    fn async_killed_or_stopped<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let Some(home) = &self.home else {
            let message = "a context that a client made has nothing to wait for";
            return Err(pyo3::exceptions::PyRuntimeError::new_err(message));
        };
        self.wanted.awaited.store(true, Ordering::Release);
        let stopped = self.wanted.stopped.clone();
        home.promise(
            py,
            "context",
            async move {
                stopped.cancelled().await;
                Ok(())
            },
            |py, ()| {
                Ok(pyo3::types::PyBool::new(py, true)
                    .to_owned()
                    .into_any()
                    .unbind())
            },
        )
    }

    /// Seconds until whoever asks loses interest; `None` if never.
    #[getter]
    fn time_remaining(&self) -> PyResult<Option<f64>> {
        let _guard = threads()?.enter();
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        Ok(self.deadline.map(|deadline| left(deadline).as_secs_f64()))
    }

    /// Whatever goes with the request in this process.
    #[getter]
    fn metadata(&self, py: Python<'_>) -> Py<PyDict> {
        self.metadata.clone_ref(py)
    }

    /// W3C trace id, 32 hexadecimal digits.
    #[getter]
    fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(1)
    }

    /// W3C span id, 16 hexadecimal digits.
    #[getter]
    fn span_id(&self) -> Option<&str> {
        self.traceparent.as_deref()?.split('-').nth(2)
    }

    /// Starts a span of the handler's own within the request's trace, below the one that was started last
    /// and is open. It is exported where traces are (`--otel-export`), and costs next to nothing else.
    #[pyo3(signature = (name, attrs=None))]
    fn start_span(&self, name: &str, attrs: Option<&Bound<'_, PyDict>>) -> PyResult<Span> {
        let parent = self.innermost();
        let open = match (&self.home, &parent) {
            (Some(home), Some(parent)) => home.embedded.spans().start(parent, name),
            _ => None,
        };
        Span::new(open, parent, attrs, &self.spans)
    }

    /// The span that was started last and is open; the request's own, which takes no attributes, if
    /// there is none.
    fn current_span(&self) -> Span {
        self.spans.current(self.traceparent.clone())
    }

    /// The headers that carry the trace further.
    fn trace_headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let headers = PyDict::new(py);
        if let Some(traceparent) = self.innermost() {
            headers.set_item("traceparent", &*traceparent)?;
        }
        if let Some(tracestate) = &self.tracestate {
            headers.set_item("tracestate", &**tracestate)?;
        }
        Ok(headers)
    }
}

/// A request's id where none was given.
pub(crate) fn new_id() -> Arc<str> {
    static RANDOM: OnceLock<Arc<dyn RandomSource>> = OnceLock::new();
    let random = RANDOM.get_or_init(|| Environment::system().random);
    let (high, low) = (random.next_u64(), random.next_u64());
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
    id.to_string().into()
}
