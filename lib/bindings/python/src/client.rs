//! Calls from Python: a client of an endpoint, and the answer as an async iterator.
//!
//! An answer is read where it is asked for, in the event loop's thread: an item that is there is
//! given at once, without a task and without a future. Only when there is none does a future wait, and
//! the bell of the mailbox ends its wait.

use crate::context::{Context, new_id};
use crate::convert;
use crate::errors::to_python;
use crate::home::{Home, settle, threads};
use crate::tokens;
use bytes::Bytes;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{EngineOutput, RequestContext};
use dynamo_runtime::component::{self, Call, Policy};
use dynamo_runtime::discovery::InstanceId;
use futures_core::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use parking_lot::Mutex;
use pyo3::exceptions::{
    PyRuntimeError, PyStopAsyncIteration, PyStopIteration, PyTimeoutError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

/// How long an instance may take to take a call before another one is asked. An event loop that stands
/// still for so long has no other way to say so.
const DISPATCH: Duration = Duration::from_secs(5);

/// How long [`Client::wait_for_instances`] waits if it is not said: a day, which a deployment that
/// comes up slowly does not need.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Calls an endpoint's instances.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct Client {
    home: Arc<Home>,
    client: Arc<component::Client>,
    /// What `generate` does.
    default: Policy,
}

impl Client {
    pub(crate) fn new(home: Arc<Home>, client: component::Client, default: Policy) -> Self {
        Self {
            home,
            client: Arc::new(client),
            default,
        }
    }

    fn call<'py>(
        &self,
        py: Python<'py>,
        policy: Policy,
        request: &Bound<'_, PyAny>,
        annotated: bool,
        context: Option<&Bound<'_, Context>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let body = convert::to_bytes(request)?;
        let (call, stopped) = match context {
            Some(context) => {
                let context = context.get();
                let call = Call {
                    context: context.request_context(),
                    deadline: context.deadline(),
                    ..Call::default()
                };
                (
                    call,
                    Some(context.wanted().token().clone().cancelled_owned()),
                )
            }
            None => {
                let context = RequestContext {
                    request_id: new_id(),
                    ..RequestContext::default()
                };
                (Call::from(context), None)
            }
        };
        let call = Call {
            dispatch: Some(DISPATCH),
            ..call
        };
        let client = Arc::clone(&self.client);
        let home = Arc::clone(&self.home);
        self.home.promise(
            py,
            "call",
            async move { Ok(client.call(policy, body, call).await) },
            move |py, called| {
                let inner = called.map_err(|error| to_python(py, &error))?;
                let items = inner.map(|item| item.map(|item| Payload::Value(item.payload)));
                let stream = AnswerStream::new(home, items.boxed(), stopped, annotated);
                Ok(Py::new(py, stream)?.into_any())
            },
        )
    }
}

#[pymethods]
impl Client {
    /// The ids of the instances that can be called now.
    fn instance_ids(&self) -> Vec<u64> {
        let ids = self.client.instance_ids().into_iter();
        ids.map(InstanceId::get).collect()
    }

    /// The instances that can be called now: id, address, and what they say of themselves.
    fn instances<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let describe = |instance: component::Instance| {
            let dict = PyDict::new(py);
            dict.set_item("instance_id", instance.id.get())?;
            dict.set_item("address", &instance.record.address)?;
            Ok(dict)
        };
        self.client.instances().into_iter().map(describe).collect()
    }

    /// Waits until there is an instance, `timeout` seconds at most; the ids of those there are.
    #[pyo3(signature = (timeout=None))]
    fn wait_for_instances<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let limit = match timeout {
            None => LONGEST_WAIT,
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .map_err(|_| PyRuntimeError::new_err("timeout needs seconds, 0 or more"))?,
        };
        let client = Arc::clone(&self.client);
        let work = async move {
            let deadline = Instant::now() + limit.min(LONGEST_WAIT);
            let ids = client.wait_for_instances(deadline).await;
            let ids = ids.map_err(|error| PyTimeoutError::new_err(error.to_string()))?;
            Ok(ids.into_iter().map(InstanceId::get).collect::<Vec<_>>())
        };
        self.home
            .promise(py, "wait for instances", work, |py, ids| {
                Ok(ids.into_pyobject(py)?.into_any().unbind())
            })
    }

    /// Calls an instance chosen by lot.
    #[pyo3(signature = (request, annotated=true, context=None))]
    fn random<'py>(
        &self,
        py: Python<'py>,
        request: &Bound<'_, PyAny>,
        annotated: bool,
        context: Option<&Bound<'_, Context>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, Policy::Random, request, annotated, context)
    }

    /// Calls the next instance in turn.
    #[pyo3(signature = (request, annotated=true, context=None))]
    fn round_robin<'py>(
        &self,
        py: Python<'py>,
        request: &Bound<'_, PyAny>,
        annotated: bool,
        context: Option<&Bound<'_, Context>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, Policy::RoundRobin, request, annotated, context)
    }

    /// Calls this instance and no other.
    #[pyo3(signature = (request, instance_id, annotated=true, context=None))]
    fn direct<'py>(
        &self,
        py: Python<'py>,
        request: &Bound<'_, PyAny>,
        instance_id: u64,
        annotated: bool,
        context: Option<&Bound<'_, Context>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let instance = InstanceId::new(instance_id)
            .ok_or_else(|| PyValueError::new_err("instance_id 0 is nobody's"))?;
        let policy = Policy::Direct(instance);
        self.call(py, policy, request, annotated, context)
    }

    /// Calls an instance as this client was told to choose them.
    #[pyo3(signature = (request, annotated=true, context=None))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        request: &Bound<'_, PyAny>,
        annotated: bool,
        context: Option<&Bound<'_, Context>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.call(py, self.default.clone(), request, annotated, context)
    }
}

/// The answer to a call: an async iterator. Dropping it cancels the call.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct AnswerStream(Arc<Reading>);

/// An answer that is being read, and its waker.
struct Reading {
    home: Arc<Home>,
    annotated: bool,
    state: Mutex<State>,
}

struct State {
    inner: Option<Items>,
    /// Resolves when the caller's context is stopped.
    stopped: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// What waits for the next item.
    waiting: Option<Py<PyAny>>,
    /// Wakes the event loop; made with the first wait.
    waker: Option<Waker>,
}

/// What an answer is read from.
pub(crate) type Items = BoxStream<'static, Result<Payload, RequestError>>;

/// An item before Python gets it.
pub(crate) enum Payload {
    /// Any value, as it came.
    Value(Bytes),
    /// What a model's engine gives.
    Output(EngineOutput),
}

type Next = Option<Result<Payload, RequestError>>;

impl AnswerStream {
    pub(crate) fn new(
        home: Arc<Home>,
        inner: Items,
        stopped: Option<WaitForCancellationFutureOwned>,
        annotated: bool,
    ) -> Self {
        Self(Arc::new(Reading {
            home,
            annotated,
            state: Mutex::new(State {
                inner: Some(inner),
                stopped: stopped.map(Box::pin),
                waiting: None,
                waker: None,
            }),
        }))
    }
}

impl Reading {
    fn poll(self: &Arc<Self>, state: &mut State) -> PyResult<Poll<Next>> {
        let _guard = threads()?.enter();
        let State {
            inner: Some(inner),
            stopped,
            waker,
            ..
        } = state
        else {
            return Ok(Poll::Ready(None));
        };
        let waker = waker.get_or_insert_with(|| Waker::from(Arc::new(Bell(Arc::downgrade(self)))));
        let mut cx = std::task::Context::from_waker(waker);
        let is_stopped = stopped
            .as_mut()
            .is_some_and(|it| it.poll_unpin(&mut cx).is_ready());
        let next = match is_stopped {
            true => Poll::Ready(None),
            false => inner.poll_next_unpin(&mut cx),
        };
        if matches!(next, Poll::Ready(None | Some(Err(_)))) {
            state.inner = None;
        }
        Ok(next)
    }

    /// An item as Python gets it, or the exception that ends the iteration.
    fn given(&self, py: Python<'_>, next: Next) -> PyResult<Py<PyAny>> {
        match next {
            None => Err(PyStopAsyncIteration::new_err(())),
            Some(Err(error)) => Err(to_python(py, &error)),
            Some(Ok(item)) => {
                let data = match item {
                    Payload::Value(bytes) => convert::from_bytes(py, &bytes)?,
                    Payload::Output(output) => tokens::output_dict(py, &output)?.into_any(),
                };
                let data = data.unbind();
                match self.annotated {
                    true => Ok(Py::new(py, Annotated { data })?.into_any()),
                    false => Ok(data),
                }
            }
        }
    }

    /// There may be something now.
    fn rung(self: &Arc<Self>, py: Python<'_>) {
        let mut state = self.state.lock();
        let Some(waiting) = state.waiting.take() else {
            return;
        };
        let is_over = waiting
            .call_method0(py, "done")
            .and_then(|it| it.is_truthy(py));
        if is_over.unwrap_or(true) {
            // The wait was cancelled; what is there stays for the next one.
            return;
        }
        let polled = self.poll(&mut state);
        if let Ok(Poll::Pending) = polled {
            state.waiting = Some(waiting);
            return;
        }
        drop(state);
        let result = match polled {
            Ok(Poll::Ready(next)) => self.given(py, next),
            Ok(Poll::Pending) => return,
            Err(error) => Err(error),
        };
        settle(waiting.bind(py), result);
    }
}

/// Wakes the event loop for an answer, while somebody reads it.
struct Bell(std::sync::Weak<Reading>);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(reading) = self.0.upgrade() {
            let mailbox = Arc::clone(&reading.home.mailbox);
            mailbox.post(Box::new(move |py| reading.rung(py)));
        }
    }
}

#[pymethods]
impl AnswerStream {
    fn __aiter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __anext__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let reading = &self.0;
        let mut state = reading.state.lock();
        match reading.poll(&mut state)? {
            Poll::Ready(next) => {
                drop(state);
                let value = reading.given(py, next)?;
                Ok(Bound::new(py, Ready(Mutex::new(Some(value))))?.into_any())
            }
            Poll::Pending => {
                let event_loop = reading.home.mailbox.event_loop(py);
                let future = event_loop.call_method0("create_future")?;
                state.waiting = Some(future.clone().unbind());
                Ok(future)
            }
        }
    }
}

/// An awaitable whose value is there.
#[pyclass(frozen, module = "dynamo._core")]
struct Ready(Mutex<Option<Py<PyAny>>>);

#[pymethods]
impl Ready {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self) -> PyResult<Py<PyAny>> {
        match self.0.lock().take() {
            // In a tuple: a value that is one itself must stay one.
            Some(value) => Err(PyStopIteration::new_err((value,))),
            None => Err(PyRuntimeError::new_err("this was awaited before")),
        }
    }
}

/// An item of an answer.
#[pyclass(frozen, module = "dynamo._core")]
struct Annotated {
    data: Py<PyAny>,
}

#[pymethods]
impl Annotated {
    /// What the handler yielded.
    fn data(&self, py: Python<'_>) -> Py<PyAny> {
        self.data.clone_ref(py)
    }

    /// Always `None`: items have no events of their own.
    fn event(&self) -> Option<String> {
        None
    }

    /// Always empty.
    fn comments(&self) -> Vec<String> {
        Vec::new()
    }

    /// Always `None`.
    fn id(&self) -> Option<String> {
        None
    }

    /// Always false: what ends an answer is an exception.
    fn is_error(&self) -> bool {
        false
    }
}
