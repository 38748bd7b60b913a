//! From options to servers that are polled and listened to.

use super::{BALANCER, Backend, Backends, Fleet, Keeper, Patience};
use crate::address::{AddressError, BackendAddress};
use crate::config::BackendOptions;
use crate::headers::KeyPolicy;
use crate::kv::{self, EngineCaches};
use crate::metrics::BackendMetrics;
use crate::poll;
use crate::shadow::{Shadow, ShadowWorker};
use dynamo_engine_events::{EndpointError, EngineEventMetrics, ZmqEndpoint};
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::mode::RouterMode;
use dynamo_llm::byte_tokenizer::ByteTokenizer;
use dynamo_llm::card::ModelCard;
use dynamo_llm::registry::ModelRegistry;
use dynamo_llm::template::ChatTemplate;
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_routing::{FedSetup, WorkerRouter};
use dynamo_runtime::{Environment, Tasks};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the start waits for every server's first answer. Those that take longer join later.
const FIRST_ROUND: Duration = Duration::from_secs(1);

/// The word for a server that publishes no events.
const NO_EVENTS: &str = "none";

/// How prompts become tokens.
#[derive(Clone)]
pub struct Tokenising {
    /// What is known of the model.
    pub card: ModelCard,
    /// Text to tokens.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Messages to text.
    pub template: Option<Arc<ChatTemplate>>,
    /// The one model that it is for; `None` is all.
    pub only: Option<String>,
}

/// What the servers are made of.
#[derive(Debug)]
pub struct BackendsSetup {
    /// Where they are.
    pub addresses: Vec<BackendAddress>,
    /// How to treat them.
    pub options: BackendOptions,
    /// How to choose among them.
    pub router: RouterOptions,
    /// How prompts become tokens, if that is known.
    pub tokenising: Option<Tokenising>,
    /// Clients' keys are checked here, and are no business of the servers'.
    pub keys_checked: bool,
    /// Where their models are listed.
    pub models: ModelRegistry,
    /// Sockets, clock, random numbers.
    pub environment: Environment,
    /// Where their tasks belong.
    pub tasks: Tasks,
    /// What is counted of them.
    pub metrics: BackendMetrics,
    /// What is counted of their events.
    pub event_metrics: EngineEventMetrics,
}

/// Why the options make no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A server's address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// A publisher's address.
    #[error("--kv-events: {0}")]
    Events(#[from] EndpointError),
    /// More publishers than servers.
    #[error(
        "--kv-events is given {events} times for {servers} servers; give it once for each, or `none`"
    )]
    TooManyEvents {
        /// Publishers.
        events: usize,
        /// Servers.
        servers: usize,
    },
    /// Prompts have to be tokenised.
    #[error(
        "{0} needs the model's tokenizer: give its folder or Hugging Face id with --model-path"
    )]
    NoTokenizer(String),
    /// One address is given twice.
    #[error("{0} is given twice; give each server once")]
    Twice(String),
    /// A balancer is one.
    #[error("--shadow compares with one balancer: give one out=http://HOST:PORT")]
    ManyBalancers,
    /// Nothing to choose from.
    #[error("--shadow needs the servers behind the balancer: give each with --shadow-worker")]
    NoShadowWorkers,
}

impl fmt::Debug for Tokenising {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenising")
            .field("model", &self.card.name)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

impl Tokenising {
    pub(super) fn is_for(&self, model: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only == model)
    }
}

/// For models whose prompts nobody tokenises.
pub(super) fn byte_tokenizer() -> Arc<dyn Tokenizer> {
    Arc::new(ByteTokenizer)
}

impl Backends {
    /// Polls the servers and listens to their events from now on. Resolves when all have been
    /// asked once, or have had a second for it.
    pub async fn start(setup: BackendsSetup) -> Result<Self, SetupError> {
        let (events, event_metrics) = (publishers(&setup)?, setup.event_metrics.clone());
        let fleet = Arc::new(fleet(setup, events.len())?);
        for backend in &fleet.backends {
            fleet.metrics.up.with_label_values(&[&backend.label]).set(0);
            let poll = poll::poll(Arc::clone(&fleet), Arc::clone(backend));
            fleet.tasks.spawn_until_cancelled("backend poll", poll);
        }
        for (number, options) in events {
            kv::listen(&fleet, number, options, &event_metrics);
        }
        let all_in = async {
            for backend in &fleet.backends {
                // The sender lives as long as the fleet.
                drop(backend.is_in.subscribe().wait_for(|is_in| *is_in).await);
            }
        };
        drop(timeout(FIRST_ROUND, all_in).await);
        Ok(Self { fleet })
    }
}

fn fleet(setup: BackendsSetup, publishers: usize) -> Result<Fleet, SetupError> {
    let BackendsSetup {
        addresses,
        options,
        tokenising,
        environment,
        ..
    } = setup;
    let connect = options.backend_connect_timeout;
    let (addresses, shadow) = match options.shadow {
        false => (addresses, None),
        true => {
            let [balancer] = &addresses[..] else {
                return Err(SetupError::ManyBalancers);
            };
            let workers = shadow_workers(&options)?;
            let balancer = Backend::new(BALANCER, balancer.clone(), &environment, connect);
            balancer.is_in.send_replace(true);
            let addresses = workers
                .iter()
                .map(|worker| worker.address.clone())
                .collect();
            let (headers, every) = (options.shadow_header.clone(), options.shadow_log_every);
            let shadow = Shadow::new(workers, headers, every, setup.metrics.clone());
            (addresses, Some((Arc::new(balancer), shadow)))
        }
    };
    if let Some(twice) = (1..addresses.len()).find(|at| addresses[..*at].contains(&addresses[*at]))
    {
        return Err(SetupError::Twice(addresses[twice].to_string()));
    }
    let block_size = Fleet::block_size(options.kv_block_size, tokenising.as_ref());
    let router_options = router_options(setup.router, tokenising.is_some(), publishers > 0)?;
    let tasks = setup.tasks.child();
    let (router, feed) = WorkerRouter::fed(FedSetup {
        environment: environment.clone(),
        tasks: tasks.clone(),
        block_size,
        options: router_options.clone(),
    });
    let backends = (1..)
        .zip(addresses)
        .map(|(number, address)| Arc::new(Backend::new(number, address, &environment, connect)));
    Ok(Fleet {
        backends: backends.collect(),
        environment,
        tasks,
        metrics: setup.metrics,
        patience: Patience {
            head: options.backend_head_timeout,
            idle: options.backend_idle_timeout,
            poll: options.backend_poll_timeout,
            poll_interval: options.backend_poll_interval,
        },
        keys: KeyPolicy {
            checked_here: setup.keys_checked,
            own: options.backend_api_key,
        },
        shadow,
        tokenising,
        models: setup.models,
        options: router_options,
        router: RwLock::new(Arc::new(router)),
        keeper: Mutex::new(Keeper {
            feed,
            caches: EngineCaches::new(block_size, options.kv_block_size.is_some()),
            served: BTreeMap::new(),
        }),
    })
}

fn shadow_workers(options: &BackendOptions) -> Result<Vec<ShadowWorker>, SetupError> {
    if options.shadow_worker.is_empty() {
        return Err(SetupError::NoShadowWorkers);
    }
    let workers = options.shadow_worker.iter();
    let workers = workers.map(|text| ShadowWorker::parse(text));
    Ok(workers.collect::<Result<_, _>>()?)
}

/// The options that are meant, given what is known of prompts and caches.
fn router_options(
    options: RouterOptions,
    has_tokenizer: bool,
    has_events: bool,
) -> Result<RouterOptions, SetupError> {
    let mode = options.router_mode;
    let needs_tokens = mode.is_by_cost() || mode == RouterMode::PrefixHash;
    if needs_tokens && !has_tokenizer {
        let option = format!("--router-mode {}", mode.as_str());
        return Err(SetupError::NoTokenizer(option));
    }
    let mut options = options;
    if !has_events {
        options.router_kv_events = false;
        if mode == RouterMode::Auto && has_tokenizer {
            options.router_mode = RouterMode::KvApproximate;
        }
    }
    Ok(options)
}

/// The publishers, by the number of their server.
fn publishers(
    setup: &BackendsSetup,
) -> Result<Vec<(u64, dynamo_engine_events::SubscriberOptions)>, SetupError> {
    let options = &setup.options;
    let servers = match options.shadow {
        true => options.shadow_worker.len(),
        false => setup.addresses.len(),
    };
    let events = options.kv_events.len().max(options.kv_events_replay.len());
    if events > servers {
        return Err(SetupError::TooManyEvents { events, servers });
    }
    let endpoint = |list: &[String], at: usize| -> Result<Option<ZmqEndpoint>, EndpointError> {
        let given = list.get(at).filter(|text| *text != NO_EVENTS);
        given.map(|text| text.parse()).transpose()
    };
    let mut publishers = Vec::new();
    for (number, at) in (1..).zip(0..options.kv_events.len()) {
        if let Some(publisher) = endpoint(&options.kv_events, at)? {
            let options = dynamo_engine_events::SubscriberOptions {
                endpoint: publisher,
                replay: endpoint(&options.kv_events_replay, at)?,
                topic: options.kv_events_topic.clone(),
            };
            publishers.push((number, options));
        }
    }
    if !publishers.is_empty() && setup.tokenising.is_none() {
        return Err(SetupError::NoTokenizer("--kv-events".to_owned()));
    }
    Ok(publishers)
}

#[cfg(test)]
mod tests;
