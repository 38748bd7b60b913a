//! The runtime as Python has it: namespaces, components, endpoints.

use crate::client::Client;
use crate::home::{Home, threads, trouble};
use crate::mailbox::Mailbox;
use crate::serving::Serving;
use crate::watch::watch;
use dynamo_run::embedded::{self, Embedded};
use dynamo_runtime::component::{self, Policy};
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::status::EndpointStatus;
use dynamo_runtime::telemetry::OwnLabels;
use futures_util::future::join_all;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Weak};
use tokio::time::timeout;

/// This process's place among the others.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct DistributedRuntime {
    home: Arc<Home>,
    /// What this process serves, by endpoint: an endpoint that is asked for twice is one.
    serving: Arc<Mutex<HashMap<EndpointId, Arc<Serving>>>>,
}

impl DistributedRuntime {
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }
}

#[pymethods]
impl DistributedRuntime {
    /// Joins the others. `event_loop` runs the handlers; `arguments` are options as on a command line,
    /// before those of the environment.
    #[new]
    #[pyo3(signature = (
        event_loop, discovery_backend=None, request_plane=None, enable_nats=None, *,
        event_plane=None, response_plane=None, arguments=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "the published signature")]
    fn new(
        py: Python<'_>,
        event_loop: &Bound<'_, PyAny>,
        discovery_backend: Option<&str>,
        request_plane: Option<&str>,
        enable_nats: Option<bool>,
        event_plane: Option<&str>,
        response_plane: Option<&str>,
        arguments: Option<Vec<String>>,
    ) -> PyResult<Self> {
        // The request plane brings the answers, too; NATS is used where a plane asks for it.
        let _ = (enable_nats, response_plane);
        let mut words: Vec<OsString> = arguments
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect();
        let named = [
            ("--discovery-backend", discovery_backend),
            ("--request-plane", request_plane),
            ("--event-plane", event_plane),
        ];
        for (option, value) in named {
            if let Some(value) = value {
                words.extend([option.into(), value.into()]);
            }
        }
        let mailbox = Mailbox::open(event_loop)?;
        let opened = py.detach(|| {
            let options = embedded::options(words).map_err(|error| error.to_string())?;
            let threads = threads().map_err(|error| error.to_string())?;
            threads.block_on(async {
                let embedded = Embedded::open(options).map_err(|error| error.to_string())?;
                let runtime = embedded.join().await.map_err(|error| error.to_string())?;
                Ok::<_, String>((embedded, runtime))
            })
        });
        let (embedded, runtime) = opened.map_err(|error| {
            mailbox.close(py);
            PyValueError::new_err(error)
        })?;
        let home = Arc::new(Home {
            tasks: runtime.tasks().child(),
            embedded,
            runtime,
            mailbox,
            servers: Mutex::default(),
        });
        let thread = py
            .import("threading")?
            .call_method0("get_ident")?
            .extract()?;
        let _guard = threads()?.enter();
        let watching = Arc::clone(&home);
        home.tasks
            .spawn_until_cancelled("event loop watch", watch(watching, thread));
        Ok(Self {
            home,
            serving: Arc::default(),
        })
    }

    /// A deployment's name.
    fn namespace(&self, name: &str) -> PyResult<Namespace> {
        let namespace = self.home.runtime.namespace(name);
        namespace.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Namespace {
            home: Arc::clone(&self.home),
            serving: Arc::clone(&self.serving),
            name: name.to_owned(),
        })
    }

    /// An endpoint by its path: `namespace.component.endpoint`, with or without `dyn://`.
    fn endpoint(&self, path: &str) -> PyResult<Endpoint> {
        let options = self.home.embedded.namespace();
        let id = EndpointId::parse_with_defaults(path.trim_start_matches("dyn://"), &options);
        let id = id.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Endpoint::new(&self.home, &self.serving, id))
    }

    /// The namespace that the options name.
    #[getter]
    fn default_namespace(&self) -> String {
        self.home.embedded.namespace()
    }

    /// Says whether this process is ready, beside what its endpoints say.
    fn set_health_status(&self, ready: bool) {
        let status = match ready {
            true => EndpointStatus::Ready,
            false => EndpointStatus::NotReady,
        };
        self.home.runtime.health().set_endpoint("python", status);
    }

    /// Drains: withdraws what is served, lets requests finish for as long as `--drain-timeout` allows,
    /// hands over the rest. A future of the event loop.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let home = Arc::clone(&self.home);
        let serving: Vec<_> = self.serving.lock().values().cloned().collect();
        self.home.promise_nothing(py, "drain", async move {
            let runtime = &home.runtime;
            runtime.health().set_draining();
            runtime.refuse_new().await;
            let finish = async {
                let servers = home.servers.lock().clone();
                let servers = servers.iter().filter_map(Weak::upgrade);
                let servers = servers.map(|server| async move {
                    server.drain();
                    server.ended().await;
                });
                // Together: none of them takes the others' time.
                let endpoints = serving.iter().map(|endpoint| endpoint.stop(true));
                tokio::join!(join_all(endpoints), join_all(servers));
            };
            let limit = home.embedded.drain_timeout();
            let finishing = runtime.finish_or_hand_over(finish, limit);
            if timeout(limit, finishing).await.is_err() {
                tracing::warn!(?limit, "the drain took longer than --drain-timeout");
            }
            Ok(())
        })
    }

    /// Leaves the others. What is not drained breaks off.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        let home = Arc::clone(&self.home);
        let serving = Arc::clone(&self.serving);
        let threads = threads()?;
        py.detach(|| {
            threads.block_on(async {
                let all: Vec<_> = serving.lock().drain().map(|(_, it)| it).collect();
                for endpoint in all {
                    endpoint.stop(false).await;
                }
                home.runtime.refuse_new().await;
                home.embedded.close().await;
            });
        });
        home.mailbox.close(py);
        Ok(())
    }
}

/// A deployment.
#[pyclass(frozen, module = "dynamo._core")]
struct Namespace {
    home: Arc<Home>,
    serving: Arc<Mutex<HashMap<EndpointId, Arc<Serving>>>>,
    name: String,
}

#[pymethods]
impl Namespace {
    /// A kind of process of this deployment.
    fn component(&self, name: &str) -> PyResult<Component> {
        let namespace = self.home.runtime.namespace(&self.name);
        let component = namespace.and_then(|it| it.component(name).map(drop));
        component.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Component {
            home: Arc::clone(&self.home),
            serving: Arc::clone(&self.serving),
            namespace: self.name.clone(),
            name: name.to_owned(),
        })
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }
}

/// A kind of process.
#[pyclass(frozen, module = "dynamo._core")]
struct Component {
    home: Arc<Home>,
    serving: Arc<Mutex<HashMap<EndpointId, Arc<Serving>>>>,
    namespace: String,
    name: String,
}

#[pymethods]
impl Component {
    /// Nothing: endpoints are served one by one. Kept because workers of earlier versions await it.
    fn create_service<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.home
            .promise_nothing(py, "create service", async { Ok(()) })
    }

    /// What such a process can be asked.
    fn endpoint(&self, name: &str) -> PyResult<Endpoint> {
        let id = EndpointId::new(&self.namespace, &self.name, name);
        let id = id.map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Endpoint::new(&self.home, &self.serving, id))
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }
}

/// What a kind of process can be asked: served by instances, called by clients.
#[pyclass(frozen, module = "dynamo._core")]
pub(crate) struct Endpoint {
    home: Arc<Home>,
    serving: Arc<Serving>,
    endpoint: component::Endpoint,
}

impl Endpoint {
    fn new(
        home: &Arc<Home>,
        all: &Mutex<HashMap<EndpointId, Arc<Serving>>>,
        id: EndpointId,
    ) -> Self {
        let mut all = all.lock();
        let serving = all
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Serving::new(Arc::clone(home), id.clone())));
        Self {
            home: Arc::clone(home),
            serving: Arc::clone(serving),
            endpoint: home.runtime.endpoint(id),
        }
    }

    pub(crate) fn id(&self) -> &EndpointId {
        self.endpoint.id()
    }

    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    pub(crate) fn serving(&self) -> &Arc<Serving> {
        &self.serving
    }
}

#[pymethods]
impl Endpoint {
    /// Serves it with an async generator of a request, or of a request and its context. A future
    /// that is there when the endpoint is not served any more.
    #[pyo3(signature = (
        handler, graceful_shutdown=true, metrics_labels=None, health_check_payload=None
    ))]
    fn serve_endpoint<'py>(
        &self,
        py: Python<'py>,
        handler: &Bound<'_, PyAny>,
        graceful_shutdown: bool,
        metrics_labels: Option<Vec<(String, String)>>,
        health_check_payload: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let labels = OwnLabels::new(metrics_labels.unwrap_or_default());
        let labels =
            labels.map_err(|error| PyValueError::new_err(format!("metrics_labels: {error}")))?;
        let canary = health_check_payload
            .map(crate::engine::canary)
            .transpose()?
            .flatten();
        let drive = py
            .import("dynamo.runtime.serving")?
            .call_method1("drive_of", (handler,))?
            .unbind();
        let serving = Arc::clone(&self.serving);
        serving.set_graceful(graceful_shutdown);
        self.home.promise_nothing(py, "serve", async move {
            serving
                .serve(drive, canary, labels)
                .await
                .map_err(trouble)?;
            serving.stopped().await;
            Ok(())
        })
    }

    /// Calls it. `router_mode` is what `generate` does: `round-robin` (the default) or `random`.
    #[pyo3(signature = (router_mode=None))]
    fn client<'py>(
        &self,
        py: Python<'py>,
        router_mode: Option<&str>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let default = match router_mode {
            None | Some("round-robin" | "round_robin") => Policy::RoundRobin,
            Some("random") => Policy::Random,
            Some(other) => {
                return Err(PyValueError::new_err(format!(
                    "router_mode {other:?} is not for a client; use round-robin or random, or a KvRouter"
                )));
            }
        };
        let (home, endpoint) = (Arc::clone(&self.home), self.endpoint.clone());
        self.home.promise(
            py,
            "client",
            async move { Ok((endpoint.client(), home)) },
            move |py, (client, home)| {
                Ok(Py::new(py, Client::new(home, client, default))?.into_any())
            },
        )
    }

    /// This process's instance of it; `None` if it does not serve it.
    fn connection_id(&self) -> Option<u64> {
        self.serving.instance().map(InstanceId::get)
    }

    /// Its path.
    #[getter]
    fn path(&self) -> String {
        self.endpoint.id().to_string()
    }

    /// Takes this process's instance out of discovery; it goes on with what it has.
    fn unregister_endpoint_instance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let serving = Arc::clone(&self.serving);
        self.home.promise_nothing(py, "unregister", async move {
            serving.hide().await;
            Ok(())
        })
    }

    /// Puts it back.
    fn register_endpoint_instance<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let serving = Arc::clone(&self.serving);
        self.home.promise_nothing(py, "register", async move {
            serving.show().await;
            Ok(())
        })
    }

    /// Stops serving it, gently.
    fn shutdown<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let serving = Arc::clone(&self.serving);
        self.home.promise_nothing(py, "stop serving", async move {
            serving.stop(true).await;
            Ok(())
        })
    }
}
