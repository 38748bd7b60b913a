//! An HTTP server whose models are Python functions of the same process.
//!
//! It is the frontend's server; a function is an engine that takes text. Models may be added before it
//! runs and while it does: what is served follows from what is listed, by name.

use crate::engine::PythonEngine;
use crate::home::{Home, trouble};
use crate::model::text_registration;
use crate::publish::Told;
use crate::runtime::DistributedRuntime;
use crate::serve::Function;
use dynamo_llm::byte_tokenizer::ByteTokenizer;
use dynamo_llm::card::{ModelCard, ModelTypes};
use dynamo_llm::model::ServedModel;
use dynamo_protocols::engine::{Engine, EngineRequest, EngineStream, RequestContext};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::openai::stream::Api;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_run::embedded::HttpServing;
use dynamo_runtime::discovery::EndpointId;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::{Future, ready};
use std::sync::Arc;

/// A function that answers requests of an `HttpService`: an async generator of the client's request,
/// and of its context if it takes one, that yields the chunks of the answer.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct HttpAsyncEngine {
    drive: Py<PyAny>,
    event_loop: Py<PyAny>,
}

#[pymethods]
impl HttpAsyncEngine {
    /// `event_loop` runs the function: the one that the runtime was made with.
    #[new]
    fn new(generator: &Bound<'_, PyAny>, event_loop: Bound<'_, PyAny>) -> PyResult<Self> {
        let serving = generator.py().import("dynamo.runtime.serving")?;
        Ok(Self {
            drive: serving.call_method1("drive_of", (generator,))?.unbind(),
            event_loop: event_loop.unbind(),
        })
    }
}

/// A server of the OpenAI API whose models are functions of this process.
#[pyclass(frozen, module = "dynamo._core")]
struct HttpService {
    arguments: Vec<OsString>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    models: BTreeMap<String, Model>,
    running: Option<Running>,
    has_started: bool,
}

#[derive(Clone)]
struct Running {
    home: Arc<Home>,
    serving: Arc<HttpServing>,
}

/// What a name stands for.
struct Model {
    checksum: String,
    chat: Option<Py<HttpAsyncEngine>>,
    completions: Option<Py<HttpAsyncEngine>>,
}

impl Model {
    fn engine(&mut self, api: Api) -> &mut Option<Py<HttpAsyncEngine>> {
        match api {
            Api::Chat => &mut self.chat,
            Api::Completions => &mut self.completions,
        }
    }

    fn has(&self, api: Api) -> bool {
        match api {
            Api::Chat => self.chat.is_some(),
            Api::Completions => self.completions.is_some(),
        }
    }
}

#[pymethods]
impl HttpService {
    /// A server that does not listen yet. `port` 0 takes a free one; where `port` and `host` are not
    /// given they are what DYN_HTTP_PORT and DYN_HTTP_HOST say, or 8000 on loopback. `arguments` are
    /// further options of `dynamo frontend`.
    #[new]
    #[pyo3(signature = (port=None, host=None, *, arguments=None))]
    fn new(port: Option<u16>, host: Option<String>, arguments: Option<Vec<String>>) -> Self {
        let mut words: Vec<OsString> = arguments
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect();
        let port = port.map(|port| port.to_string());
        for (option, value) in [("--http-port", port), ("--http-host", host)] {
            if let Some(value) = value {
                words.extend([option.into(), value.into()]);
            }
        }
        Self {
            arguments: words,
            state: Arc::default(),
        }
    }

    /// Serves chat completions of a model, in place of those that it had.
    fn add_chat_completions_model(
        &self,
        py: Python<'_>,
        model: &str,
        checksum: &str,
        engine: Py<HttpAsyncEngine>,
    ) -> PyResult<()> {
        self.add(py, Api::Chat, model, checksum, engine)
    }

    /// Serves completions of a model, in place of those that it had.
    fn add_completions_model(
        &self,
        py: Python<'_>,
        model: &str,
        checksum: &str,
        engine: Py<HttpAsyncEngine>,
    ) -> PyResult<()> {
        self.add(py, Api::Completions, model, checksum, engine)
    }

    /// Serves chat completions of the model no more.
    fn remove_chat_completions_model(&self, py: Python<'_>, model: &str) -> PyResult<()> {
        self.remove(py, Api::Chat, model)
    }

    /// Serves completions of the model no more.
    fn remove_completions_model(&self, py: Python<'_>, model: &str) -> PyResult<()> {
        self.remove(py, Api::Completions, model)
    }

    /// Names of the models that chat.
    fn list_chat_completions_models(&self) -> Vec<String> {
        self.list(Api::Chat)
    }

    /// Names of the models that complete.
    fn list_completions_models(&self) -> Vec<String> {
        self.list(Api::Completions)
    }

    /// Starts it. A future that is there when it listens.
    fn start<'py>(
        &self,
        py: Python<'py>,
        runtime: &Bound<'py, DistributedRuntime>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let home = Arc::clone(runtime.get().home());
        let starting = self.listen(py, &home)?;
        home.promise_nothing(py, "http service", async move { starting.await.map(drop) })
    }

    /// Starts it if it does not run yet. A future that is there when it has ended, by `shutdown` or with
    /// the runtime; cancelling it shuts it down.
    fn run<'py>(
        &self,
        py: Python<'py>,
        runtime: &Bound<'py, DistributedRuntime>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let running = self.state.lock().running.clone();
        let home = Arc::clone(runtime.get().home());
        let starting = match running {
            Some(_) => None,
            None => Some(self.listen(py, &home)?),
        };
        home.promise_nothing(py, "http service", async move {
            let serving = match (starting, running) {
                (Some(starting), _) => starting.await?.serving,
                (None, Some(running)) => running.serving,
                (None, None) => return Ok(()),
            };
            let _stops = Stops(Arc::clone(&serving));
            serving.ended().await;
            Ok(())
        })
    }

    /// Takes no more requests, and lets those that run finish within `--drain-timeout`.
    fn shutdown(&self) {
        if let Some(running) = &self.state.lock().running {
            running.serving.drain();
        }
    }

    /// The port that it listens at; `None` before it does.
    #[getter]
    fn port(&self) -> Option<u16> {
        let state = self.state.lock();
        let running = state.running.as_ref()?;
        Some(running.serving.address().port())
    }

    /// The address that it listens at; `None` before it does.
    #[getter]
    fn host(&self) -> Option<String> {
        let state = self.state.lock();
        let running = state.running.as_ref()?;
        Some(running.serving.address().ip().to_string())
    }
}

/// Shuts a server down when nobody waits for its end any more.
struct Stops(Arc<HttpServing>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.drain();
    }
}

impl HttpService {
    fn add(
        &self,
        py: Python<'_>,
        api: Api,
        name: &str,
        checksum: &str,
        engine: Py<HttpAsyncEngine>,
    ) -> PyResult<()> {
        let mut state = self.state.lock();
        if let Some(running) = &state.running {
            check_loop(py, &running.home, &engine)?;
        }
        let model = state
            .models
            .entry(name.to_owned())
            .or_insert_with(|| Model {
                checksum: checksum.to_owned(),
                chat: None,
                completions: None,
            });
        if model.checksum != checksum {
            return Err(PyValueError::new_err(format!(
                "model {name:?} has checksum {:?} already: chat and completions of one name are one model",
                model.checksum
            )));
        }
        *model.engine(api) = Some(engine);
        state.show(py, name)
    }

    fn remove(&self, py: Python<'_>, api: Api, name: &str) -> PyResult<()> {
        let mut state = self.state.lock();
        let model = state.models.get_mut(name);
        let removed = model.and_then(|model| model.engine(api).take());
        if removed.is_none() {
            let message = format!("no such model is served: {name:?}");
            return Err(PyValueError::new_err(message));
        }
        state
            .models
            .retain(|_, model| model.has(Api::Chat) || model.has(Api::Completions));
        state.show(py, name)
    }

    fn list(&self, api: Api) -> Vec<String> {
        let state = self.state.lock();
        let models = state.models.iter().filter(|(_, model)| model.has(api));
        models.map(|(name, _)| name.clone()).collect()
    }

    /// What makes it listen.
    fn listen(
        &self,
        py: Python<'_>,
        home: &Arc<Home>,
    ) -> PyResult<impl Future<Output = PyResult<Running>> + Send + use<>> {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.has_started, true) {
            let message = "an HttpService runs once: make another one";
            return Err(PyRuntimeError::new_err(message));
        }
        for model in state.models.values() {
            for engine in [&model.chat, &model.completions].into_iter().flatten() {
                check_loop(py, home, engine)?;
            }
        }
        let (home, state) = (Arc::clone(home), Arc::clone(&self.state));
        let arguments = self.arguments.clone();
        Ok(async move {
            let serving = home.embedded.serve_http(arguments).await.map_err(trouble)?;
            let serving = Arc::new(serving);
            home.remember(&serving);
            let running = Running { home, serving };
            let (shown, showing) = tokio::sync::oneshot::channel();
            // Functions belong to the event loop's thread.
            let listening = running.clone();
            running.home.mailbox.post(Box::new(move |py| {
                let mut state = state.lock();
                state.running = Some(listening);
                let names: Vec<String> = state.models.keys().cloned().collect();
                let all = names.iter().try_for_each(|name| state.show(py, name));
                // Who does not listen has gone away.
                drop(shown.send(all));
            }));
            match showing.await {
                Ok(all) => all.map(|()| running),
                Err(_) => Err(PyRuntimeError::new_err("the event loop has ended")),
            }
        })
    }
}

impl State {
    /// Brings what is served under a name up to date.
    fn show(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        let Some(Running { home, serving }) = &self.running else {
            return Ok(());
        };
        let Some(model) = self.models.get(name) else {
            serving.remove(name);
            return Ok(());
        };
        let types = ModelTypes {
            chat: model.has(Api::Chat),
            completions: model.has(Api::Completions),
            embeddings: false,
        };
        let card = ModelCard::text(name, types);
        let endpoint = EndpointId::new(&home.embedded.namespace(), "http", "generate");
        let endpoint = endpoint.map_err(trouble)?;
        let registration = text_registration(&card)?;
        let engine = |engine: &Option<Py<HttpAsyncEngine>>| {
            let drive = engine.as_ref()?.get().drive.clone_ref(py);
            let function = Arc::new(Function::new(Arc::clone(home), drive));
            let told = Arc::new(Told::default());
            let endpoint = endpoint.clone();
            Some(PythonEngine::new(
                function,
                endpoint,
                None,
                told,
                &registration,
            ))
        };
        serving.add(ServedModel {
            engine: Arc::new(Functions {
                chat: engine(&model.chat),
                completions: engine(&model.completions),
            }),
            card,
            tokenizer: Arc::new(ByteTokenizer),
            template: None,
            router: None,
        });
        Ok(())
    }
}

/// Whether the engine's function is run by the runtime's event loop.
fn check_loop(py: Python<'_>, home: &Home, engine: &Py<HttpAsyncEngine>) -> PyResult<()> {
    match engine.get().event_loop.is(home.mailbox.event_loop(py)) {
        true => Ok(()),
        false => Err(PyValueError::new_err(
            "the engine's event loop is not the runtime's: give both asyncio.get_running_loop()",
        )),
    }
}

/// The functions of one name.
#[derive(Debug)]
struct Functions {
    chat: Option<PythonEngine>,
    completions: Option<PythonEngine>,
}

impl Engine for Functions {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let engine = match request.text.as_ref().map(|text| text.api) {
            Some(Api::Chat) => &self.chat,
            Some(Api::Completions) => &self.completions,
            None => &None,
        };
        match engine {
            Some(engine) => engine.generate(request, context),
            None => Box::pin(ready(Err(RequestError::new(
                ErrorCode::UnsupportedParameter,
                "the model does not answer such requests",
            )))),
        }
    }

    fn load(&self) -> LoadReport {
        let all = [&self.chat, &self.completions].into_iter().flatten();
        let requests = all.map(|it| it.load().scheduled.num_decode_requests);
        let mut load = LoadReport::default();
        load.scheduled.num_decode_requests = requests.sum();
        load
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            for engine in [&self.chat, &self.completions].into_iter().flatten() {
                engine.drain().await;
            }
        })
    }
}

/// What this module has for Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HttpAsyncEngine>()?;
    module.add_class::<HttpService>()
}
