//! A Python function as what serves an endpoint.
//!
//! A request becomes a task of the event loop. What runs in it is `dynamo.runtime.serving.drive`,
//! which calls the handler and puts what it yields into a [`Sink`]. The request is taken when the
//! task is there: a loop that stands still takes nothing, and the caller asks another instance.
//!
//! The same function serves plain endpoints ([`PythonHandler`]: any values) and models
//! (`PythonEngine`: tokens).

use crate::context::{Context, Wanted};
use crate::convert;
use crate::errors::from_python;
use crate::home::Home;
use crate::outlet::{Answer, Outlet};
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::request_plane::{Handler, IncomingRequest, Item, ItemStream, RequestHeader};
use futures_core::future::BoxFuture;
use pyo3::prelude::*;
use std::fmt;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The handler's function with what it runs in.
pub(crate) struct Function {
    home: Arc<Home>,
    /// `drive(request, context, sink)`, which returns a coroutine.
    drive: Py<PyAny>,
}

/// Makes of a request what Python gets.
pub(crate) type Body = Box<dyn for<'py> FnOnce(Python<'py>) -> PyResult<Bound<'py, PyAny>> + Send>;

/// Makes what a handler's items go through.
pub(crate) type PortOf<T> = fn(Arc<Outlet<T>>) -> Box<dyn Port>;

impl Function {
    pub(crate) fn new(home: Arc<Home>, drive: Py<PyAny>) -> Self {
        Self { home, drive }
    }

    /// Runs the function in the event loop. Resolves when it has begun.
    pub(crate) fn call<T: Send + 'static>(
        self: &Arc<Self>,
        header: RequestHeader,
        body: Body,
        port: PortOf<T>,
    ) -> impl Future<Output = Result<Answer<T>, RequestError>> + Send + use<T> {
        let wanted = Arc::<Wanted>::default();
        let mailbox = Arc::clone(&self.home.mailbox);
        let outlet = Arc::new(Outlet::new(mailbox, Arc::clone(&wanted)));
        // From here on a caller that goes away cancels what there is.
        let answer = Answer(Arc::clone(&outlet));
        let (told, begun) = oneshot::channel();
        let this = Arc::clone(self);
        self.home.mailbox.post(Box::new(move |py| {
            let begun = match wanted.token().is_cancelled() {
                true => Ok(()),
                false => this.begin(py, &header, wanted, body, &outlet, port),
            };
            // Who does not listen has gone away.
            drop(told.send(begun.map_err(|error| from_python(py, &error))));
        }));
        async move {
            match begun.await {
                Ok(begun) => begun.map(|()| answer),
                Err(_) => Err(RequestError::new(
                    ErrorCode::Draining,
                    "the worker's event loop has ended",
                )),
            }
        }
    }

    /// Starts the handler's task. Within the event loop.
    fn begin<T>(
        &self,
        py: Python<'_>,
        header: &RequestHeader,
        wanted: Arc<Wanted>,
        body: Body,
        outlet: &Arc<Outlet<T>>,
        port: PortOf<T>,
    ) -> PyResult<()> {
        let context = Context::received(py, header, wanted, Arc::clone(&self.home));
        let sink = Sink(port(Arc::clone(outlet)));
        let work = self.drive.call1(py, (body(py)?, context, sink))?;
        let event_loop = self.home.mailbox.event_loop(py);
        let task = event_loop.call_method1("create_task", (work,))?;
        outlet.set_task(py, task.unbind());
        Ok(())
    }
}

/// Serves an endpoint that takes and gives any values.
pub(crate) struct PythonHandler(pub(crate) Arc<Function>);

impl Handler for PythonHandler {
    fn handle(&self, incoming: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let body = incoming.body;
        let read: Body = Box::new(move |py| convert::from_bytes(py, &body));
        let answer = self
            .0
            .call(incoming.header, read, |outlet| Box::new(Values(outlet)));
        Box::pin(async move { Ok(Box::pin(answer.await?) as ItemStream) })
    }
}

impl fmt::Debug for PythonHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PythonHandler").finish_non_exhaustive()
    }
}

/// What a handler's items are, and where they go.
pub(crate) trait Port: Send + Sync {
    /// Sends an item. Whether the handler is to wait for room before the next one.
    fn send(&self, item: &Bound<'_, PyAny>) -> PyResult<bool>;
    /// A future that is there when there is room.
    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>>;
    /// Ends the answer.
    fn end(&self, end: Result<(), RequestError>);
}

/// Any values.
struct Values(Arc<Outlet<Item>>);

impl Port for Values {
    fn send(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self.0.put(Item {
            positions: 1,
            payload: convert::to_bytes(item)?,
        }))
    }

    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.room(py)
    }

    fn end(&self, end: Result<(), RequestError>) {
        self.0.end(end);
    }
}

/// Where a handler's items go.
#[pyclass(frozen, module = "dynamo._core")]
struct Sink(Box<dyn Port>);

#[pymethods]
impl Sink {
    /// Sends an item. True if the caller is to wait for `room()` before the next one.
    fn send(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.0.send(item)
    }

    /// Resolves when there is room for more items.
    fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.0.room(py)
    }

    /// Ends the answer.
    fn end(&self) {
        self.0.end(Ok(()));
    }

    /// Ends the answer with what an exception means.
    fn fail(&self, py: Python<'_>, error: &Bound<'_, PyAny>) {
        let error = PyErr::from_value(error.clone());
        self.0.end(Err(from_python(py, &error)));
    }
}
