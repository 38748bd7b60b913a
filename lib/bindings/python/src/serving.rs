//! What one endpoint serves in this process: a plain handler, or a model.
//!
//! A handler may be served before its model is registered, or after it. Whatever comes first, the
//! endpoint is served as a model once both are there; one that was plain until then is withdrawn for
//! that moment.

use crate::engine::PythonEngine;
use crate::home::Home;
use crate::model::Registration;
use crate::publish::Told;
use crate::serve::{Function, PythonHandler};
use dynamo_llm::worker::{ObservedEndpoint, Worker, WorkerError};
use dynamo_protocols::engine::EngineRequest;
use dynamo_runtime::component::AnnouncedInstance;
use dynamo_runtime::discovery::{CardRecord, DiscoveryError, EndpointId, InstanceId};
use dynamo_runtime::telemetry::OwnLabels;
use pyo3::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// See the module's description.
pub(crate) struct Serving {
    home: Arc<Home>,
    endpoint: EndpointId,
    state: Mutex<State>,
    instance: parking_lot::Mutex<Option<InstanceId>>,
    graceful: AtomicBool,
    told: Arc<Told>,
    stopped: CancellationToken,
}

#[derive(Default)]
struct State {
    function: Option<Arc<Function>>,
    canary: Option<EngineRequest>,
    labels: OwnLabels,
    registration: Option<Registration>,
    /// What is announced beside the model: its adapters.
    adapters: Vec<CardRecord>,
    served: Option<Served>,
    announced: Option<AnnouncedInstance>,
}

enum Served {
    Plain(Box<ObservedEndpoint>),
    Model(Box<Worker>),
}

impl Serving {
    pub(crate) fn new(home: Arc<Home>, endpoint: EndpointId) -> Self {
        Self {
            home,
            endpoint,
            state: Mutex::default(),
            instance: parking_lot::Mutex::default(),
            graceful: AtomicBool::new(true),
            told: Arc::default(),
            stopped: CancellationToken::new(),
        }
    }

    /// Whether requests may finish when it is stopped.
    pub(crate) fn set_graceful(&self, graceful: bool) {
        self.graceful.store(graceful, Ordering::Relaxed);
    }

    /// What is told of its cache and load.
    pub(crate) fn told(&self) -> &Arc<Told> {
        &self.told
    }

    /// This process's instance.
    pub(crate) fn instance(&self) -> Option<InstanceId> {
        *self.instance.lock()
    }

    /// Serves with a handler.
    pub(crate) async fn serve(
        &self,
        drive: Py<PyAny>,
        canary: Option<EngineRequest>,
        labels: OwnLabels,
    ) -> Result<(), WorkerError> {
        let mut state = self.state.lock().await;
        state.function = Some(Arc::new(Function::new(Arc::clone(&self.home), drive)));
        state.canary = canary;
        state.labels = labels;
        self.bring_up(&mut state).await
    }

    /// Makes it a model's endpoint.
    pub(crate) async fn register(&self, registration: Registration) -> Result<(), WorkerError> {
        let mut state = self.state.lock().await;
        state.registration = Some(registration);
        self.bring_up(&mut state).await
    }

    /// It is no model's endpoint any more.
    pub(crate) async fn unregister(&self) -> Result<(), WorkerError> {
        let mut state = self.state.lock().await;
        state.registration = None;
        self.bring_up(&mut state).await
    }

    /// Announces an adapter of the model that is served here.
    pub(crate) async fn add_adapter(&self, adapter: Registration) -> Result<(), AdapterError> {
        let mut state = self.state.lock().await;
        if !matches!(state.served, Some(Served::Model(_))) {
            return Err(AdapterError::NoModel(self.endpoint.clone()));
        }
        let offer = adapter.offer;
        let card = CardRecord {
            kind: offer.role.worker_type.card_kind().to_owned(),
            name: offer.name,
            endpoint: self.endpoint.clone(),
            body: offer.card,
            // The model's own worker serves the files of both.
            artefacts: offer
                .artefacts
                .into_iter()
                .map(|(artefact, _)| artefact)
                .collect(),
        };
        self.home.runtime.announcer().put_card(card.clone()).await?;
        state.adapters.retain(|other| other.name != card.name);
        state.adapters.push(card);
        Ok(())
    }

    /// Withdraws an adapter.
    pub(crate) async fn remove_adapter(&self, name: &str) -> Result<(), AdapterError> {
        let mut state = self.state.lock().await;
        let Some(at) = state.adapters.iter().position(|it| it.name == name) else {
            return Err(AdapterError::Unknown(name.to_owned()));
        };
        let card = state.adapters.remove(at);
        Ok(self.home.runtime.announcer().remove_card(&card).await?)
    }

    async fn bring_up(&self, state: &mut State) -> Result<(), WorkerError> {
        let Some(function) = state.function.clone() else {
            return Ok(());
        };
        self.take_down(state, true).await;
        let (runtime, id) = (&self.home.runtime, &self.endpoint);
        let telemetry = self.home.embedded.worker_telemetry(state.labels.clone());
        let served = match &state.registration {
            Some(registration) => {
                let engine = PythonEngine::new(
                    function,
                    id.clone(),
                    state.canary.clone(),
                    Arc::clone(&self.told),
                    registration,
                );
                let offer = registration.offer.clone();
                let worker = Worker::start(runtime, id, Arc::new(engine), offer, &telemetry);
                let worker = worker.await?;
                *self.instance.lock() = worker.instance();
                state.announced = worker.announced();
                Served::Model(Box::new(worker))
            }
            None => {
                let handler = Arc::new(PythonHandler(function));
                let served = ObservedEndpoint::start(runtime, id, handler, &telemetry).await?;
                *self.instance.lock() = Some(served.instance());
                state.announced = Some(served.announced());
                Served::Plain(Box::new(served))
            }
        };
        state.served = Some(served);
        Ok(())
    }

    async fn take_down(&self, state: &mut State, gently: bool) {
        state.announced = None;
        for card in state.adapters.drain(..) {
            if let Err(error) = self.home.runtime.announcer().remove_card(&card).await {
                tracing::warn!(adapter = card.name, %error, "could not withdraw an adapter now");
            }
        }
        let Some(served) = state.served.take().filter(|_| gently) else {
            return;
        };
        let drain = async {
            match served {
                Served::Plain(plain) => plain.drain().await,
                Served::Model(worker) => worker.drain().await,
            }
        };
        let limit = self.home.embedded.drain_timeout();
        if timeout(limit, drain).await.is_err() {
            tracing::warn!(
                endpoint = %self.endpoint, ?limit,
                "requests were cut off by the drain timeout; --drain-timeout gives them more"
            );
        }
    }

    /// Takes the instance out of discovery.
    pub(crate) async fn hide(&self) {
        if let Some(announced) = &self.state.lock().await.announced {
            announced.hide().await;
        }
    }

    /// Puts it back.
    pub(crate) async fn show(&self) {
        if let Some(announced) = &self.state.lock().await.announced {
            announced.show().await;
        }
    }

    /// Stops serving; gently, if both this and the endpoint want it so.
    pub(crate) async fn stop(&self, gently: bool) {
        let gently = gently && self.graceful.load(Ordering::Relaxed);
        let mut state = self.state.lock().await;
        state.function = None;
        self.take_down(&mut state, gently).await;
        *self.instance.lock() = None;
        self.stopped.cancel();
    }

    /// Resolves when it has stopped.
    pub(crate) async fn stopped(&self) {
        self.stopped.cancelled().await;
    }
}

/// Why an adapter cannot be announced or withdrawn.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AdapterError {
    /// Its model has to be there first.
    #[error(
        "{0} serves no model yet: register the model and serve the endpoint before its adapters"
    )]
    NoModel(EndpointId),
    /// It was never announced.
    #[error("no adapter {0:?} is registered")]
    Unknown(String),
    /// Discovery does not take it.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
}
