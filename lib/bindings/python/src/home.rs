//! What everything of one runtime shares: threads, tasks, the event loop's mailbox; and how work of
//! the async runtime becomes a future of the event loop.

use crate::errors::failed;
use crate::mailbox::Mailbox;
use dynamo_run::embedded::{Embedded, HttpServing};
use dynamo_runtime::Tasks;
use dynamo_runtime::component::DistributedRuntime;
use parking_lot::Mutex;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use std::future::Future;
use std::sync::{Arc, OnceLock, Weak};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// Threads of the async runtime: the interpreter has a thread of its own, and what is left to do
/// besides is moving bytes.
const THREADS: usize = 2;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The async runtime of this process, which starts with its first use.
pub(crate) fn threads() -> PyResult<&'static Runtime> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let built = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("dynamo")
        .enable_all()
        .build()?;
    Ok(RUNTIME.get_or_init(|| built))
}

/// What belongs to one runtime.
pub(crate) struct Home {
    pub(crate) embedded: Embedded,
    pub(crate) runtime: DistributedRuntime,
    pub(crate) tasks: Tasks,
    pub(crate) mailbox: Arc<Mailbox>,
    /// HTTP servers of this process, to be drained with it: as many as its program has started.
    pub(crate) servers: Mutex<Vec<Weak<HttpServing>>>,
}

impl Home {
    /// Drains a server with the rest of the process.
    pub(crate) fn remember(&self, server: &Arc<HttpServing>) {
        let mut servers = self.servers.lock();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(server));
    }

    /// Lets `work` run, and gives the event loop a future for what comes of it. Cancelling the
    /// future drops the work.
    pub(crate) fn promise<'py, T: Send + 'static>(
        &self,
        py: Python<'py>,
        name: &'static str,
        work: impl Future<Output = PyResult<T>> + Send + 'static,
        into: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        let future = self.mailbox.event_loop(py).call_method0("create_future")?;
        let cancel = CancellationToken::new();
        let canceller = Canceller(cancel.clone());
        future.call_method1("add_done_callback", (canceller,))?;
        let promise = future.clone().unbind();
        let mailbox = Arc::clone(&self.mailbox);
        let _guard = threads()?.enter();
        self.tasks.spawn_until_cancelled(name, async move {
            let done = tokio::select! {
                biased;
                () = cancel.cancelled() => return,
                done = work => done,
            };
            mailbox.post(Box::new(move |py| {
                settle(promise.bind(py), done.and_then(|value| into(py, value)));
            }));
        });
        Ok(future)
    }

    /// The same for work without a result.
    pub(crate) fn promise_nothing<'py>(
        &self,
        py: Python<'py>,
        name: &'static str,
        work: impl Future<Output = PyResult<()>> + Send + 'static,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.promise(py, name, work, |py, ()| Ok(py.None()))
    }
}

/// Gives a future its result, unless nobody waits for it any more.
pub(crate) fn settle(future: &Bound<'_, PyAny>, result: PyResult<Py<PyAny>>) {
    let settled = (|| {
        if future.call_method0("done")?.is_truthy()? {
            return Ok(());
        }
        match result {
            Ok(value) => future.call_method1("set_result", (value,))?,
            Err(error) => future.call_method1("set_exception", (error.into_value(future.py()),))?,
        };
        Ok::<_, PyErr>(())
    })();
    if let Err(error) = settled {
        failed(future.py(), &error, "a future could not be settled");
    }
}

/// Cancels the work of a future that was cancelled.
#[pyclass(frozen, module = "dynamo._core")]
struct Canceller(CancellationToken);

#[pymethods]
impl Canceller {
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        if future.call_method0("cancelled")?.is_truthy()? {
            self.0.cancel();
        }
        Ok(())
    }
}

/// An error of the kind that has no better name.
pub(crate) fn trouble(error: impl std::fmt::Display) -> PyErr {
    PyRuntimeError::new_err(error.to_string())
}
