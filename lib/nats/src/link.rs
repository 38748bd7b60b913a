//! The process's connection to the NATS server, and whether it is up.
//!
//! The client connects again by itself, for ever. Beside it, this process sends itself a message
//! through the server every half second: as long as it does not come back, the link is down,
//! whatever the reason (the server is gone, frozen, or cut off), and peers cannot be blamed for
//! being silent. That excuse holds for [`LONGEST_OUTAGE`]; then streams end with their typed error.
//!
//! Invariants
//! - Secrets are never part of a message: servers are named without user and password.
//! - A server that refuses the credentials at start fails the start; one that cannot be reached is
//!   waited for, and said so.

mod options;

use crate::config::NatsOptions;
use async_nats::connection::State;
use async_nats::{Client, ConnectErrorKind, Event, Subject, Subscriber};
use bytes::Bytes;
use dynamo_runtime::status::{EndpointStatus, HealthState};
use dynamo_runtime::{Environment, Tasks};
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How often this process sends itself a message.
const ECHO_INTERVAL: Duration = Duration::from_millis(500);

/// Without an echo for this long the link is down: two that are missing, and well below the time
/// after which a silent peer counts as gone.
const ECHO_LATE: Duration = Duration::from_millis(1250);

/// For how long a link that is down excuses peers that are silent: longer than a server takes to
/// restart or a pod to be moved, and within most requests' patience.
pub const LONGEST_OUTAGE: Duration = Duration::from_secs(30);

/// A link that is down for this long, and whose socket does not show it, is made anew: the server
/// may be cut off without a word, and another one of its cluster may be reachable.
const RECONNECT_AFTER: Duration = Duration::from_secs(5);

/// How long after the link came up a subject that nobody listens to says nothing yet: the peer's
/// own link may come up later.
pub(crate) const SETTLES_WITHIN: Duration = Duration::from_secs(2);

/// Name of the link in the process's health while it is down.
const HEALTH_NAME: &str = "nats";

/// How often an unreachable server is complained of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Why the process could not get a link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NatsError {
    /// The server's address is none.
    #[error(
        "{servers} is not a list of NATS servers: {reason}; write nats://HOST:PORT for --nats-server"
    )]
    Address {
        /// What was given, without passwords.
        servers: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not let this process in.
    #[error(
        "the NATS server at {servers} refuses these credentials; give the right --nats-auth-username \
         and --nats-auth-password, --nats-auth-token, --nats-auth-nkey or \
         --nats-auth-credentials-file"
    )]
    Refused {
        /// The servers, without passwords.
        servers: String,
    },
    /// The credentials cannot be used.
    #[error("cannot use the credentials file {path}: {reason}; see --nats-auth-credentials-file")]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The client has ended.
    #[error("the nats client has ended; this process is stopping")]
    Ended,
    /// The options contradict each other.
    #[error("{0}")]
    Options(&'static str),
    /// TLS cannot be set up with the server.
    #[error("cannot speak TLS with the NATS server at {servers}: {reason}; see --nats-tls-ca")]
    Tls {
        /// The servers, without passwords.
        servers: String,
        /// What the TLS library said.
        reason: String,
    },
}

/// A process's link to the server. Cheap to clone; clones are the same link.
#[derive(Debug, Clone)]
pub struct Link {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    client: Client,
    subject: String,
    state: Arc<LinkState>,
}

#[derive(Debug)]
struct LinkState {
    servers: String,
    /// When anything last came from the server.
    heard: Mutex<Instant>,
    /// How often the client has connected, and when last.
    connected: watch::Sender<(u64, Instant)>,
    complained: Mutex<Option<Instant>>,
    health: HealthState,
}

impl Link {
    /// Connects, or begins to try; the link then lives in `tasks`.
    pub async fn open(
        options: &NatsOptions,
        environment: &Environment,
        tasks: &Tasks,
        health: &HealthState,
    ) -> Result<Self, NatsError> {
        let servers = options::shown(&options.nats_server);
        let addresses = options::addresses(options)?;
        let state = Arc::new(LinkState {
            servers: servers.clone(),
            heard: Mutex::new(Instant::now()),
            connected: watch::Sender::new((0, Instant::now())),
            complained: Mutex::new(None),
            health: health.clone(),
        });
        state.set_down();
        let once = options::connect_options(options, Arc::clone(&state)).await?;
        let client = match once.connect(&addresses[..]).await {
            Ok(client) => client,
            Err(error) => {
                judge_first_failure(&error, &servers)?;
                state.complain(&error.to_string());
                let again = options::connect_options(options, Arc::clone(&state)).await?;
                let retried = again.retry_on_initial_connect().connect(&addresses[..]);
                retried.await.map_err(|error| NatsError::Address {
                    servers: servers.clone(),
                    reason: error.to_string(),
                })?
            }
        };
        let random = &environment.random;
        let id = format!("{:016x}{:016x}", random.next_u64(), random.next_u64());
        let subject = format!("dynamo.rp.{id}");
        let echo = Subject::from(format!("dynamo.echo.{id}"));
        let echoes = client.subscribe(echo.clone()).await;
        let echoes = echoes.map_err(|_| NatsError::Ended)?;
        let link = Self {
            parts: Arc::new(Parts {
                client,
                subject,
                state,
            }),
        };
        tasks.spawn_until_cancelled("nats echoes", link.clone().hear(echoes));
        tasks.spawn_until_cancelled("nats link", link.clone().watch_over(echo));
        Ok(link)
    }

    /// The client, for what is published and subscribed.
    pub fn client(&self) -> &Client {
        &self.parts.client
    }

    /// This process's own subject; nobody else listens below it.
    pub fn subject(&self) -> &str {
        &self.parts.subject
    }

    /// The servers as they may be shown.
    pub fn servers(&self) -> &str {
        &self.parts.state.servers
    }

    /// Largest payload that the server takes.
    pub fn max_payload(&self) -> usize {
        self.parts.client.max_payload()
    }

    /// Changes each time the client has connected.
    pub fn watch_connected(&self) -> watch::Receiver<(u64, Instant)> {
        self.parts.state.connected.subscribe()
    }

    /// Something came from the server.
    pub(crate) fn mark_heard(&self) {
        *self.parts.state.heard.lock() = Instant::now();
    }

    /// Whether the link is down, and not for too long.
    pub fn excuses_silence(&self) -> bool {
        let silent = self.parts.state.heard.lock().elapsed();
        silent > ECHO_LATE && silent < LONGEST_OUTAGE
    }

    /// Whether messages come back from the server now.
    pub fn is_up(&self) -> bool {
        self.parts.state.heard.lock().elapsed() <= ECHO_LATE
    }

    /// Whether the link has been up for long enough that peers are back as well.
    pub(crate) fn has_settled(&self) -> bool {
        let (times, at) = *self.parts.state.connected.borrow();
        times > 0 && at.elapsed() > SETTLES_WITHIN
    }

    async fn hear(self, mut echoes: Subscriber) {
        while echoes.next().await.is_some() {
            self.mark_heard();
        }
    }

    /// Sends this process messages, and judges the link by what comes back.
    async fn watch_over(self, echo: Subject) {
        let mut ticks = interval(ECHO_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forced = Instant::now();
        let state = &self.parts.state;
        let mut was_up = false;
        loop {
            ticks.tick().await;
            // While the client is full of messages for a server that is away, it takes no more.
            let sent = self.client().publish(echo.clone(), Bytes::new());
            drop(timeout(ECHO_INTERVAL, sent).await);
            let is_up = state.connected.borrow().0 > 0 && self.is_up();
            if is_up != was_up {
                state.set_up(is_up);
                was_up = is_up;
            }
            let silent = state.heard.lock().elapsed();
            if silent > RECONNECT_AFTER
                && forced.elapsed() > RECONNECT_AFTER
                && self.client().connection_state() == State::Connected
            {
                forced = Instant::now();
                tracing::warn!(server = %state.servers, "nats server is silent, connecting again");
                // A client that has ended says so elsewhere.
                drop(self.client().force_reconnect().await);
            }
        }
    }
}

impl LinkState {
    fn take_event(&self, event: &Event) {
        match event {
            Event::Connected => {
                *self.complained.lock() = None;
                tracing::info!(server = %self.servers, "nats server connected");
                self.connected
                    .send_modify(|(times, at)| (*times, *at) = (*times + 1, Instant::now()));
            }
            Event::Disconnected => {
                tracing::warn!(server = %self.servers, "nats server lost, connecting again");
            }
            Event::SlowConsumer(_) => {
                tracing::warn!("nats messages dropped: this process is too slow");
            }
            Event::ServerError(error) => self.complain(&error.to_string()),
            Event::ClientError(error) => self.complain(&error.to_string()),
            Event::LameDuckMode | Event::Draining | Event::Closed => {}
        }
    }

    /// Says why there is no server, from time to time.
    fn complain(&self, reason: &str) {
        let mut complained = self.complained.lock();
        if complained.is_some_and(|at| at.elapsed() < COMPLAIN_EVERY) {
            return;
        }
        *complained = Some(Instant::now());
        tracing::warn!(
            server = %self.servers, error = reason,
            "cannot reach the nats server, trying on; check --nats-server"
        );
    }

    fn set_up(&self, is_up: bool) {
        if is_up {
            self.health.remove_endpoint(HEALTH_NAME);
        } else {
            self.set_down();
        }
    }

    fn set_down(&self) {
        self.health
            .set_endpoint(HEALTH_NAME, EndpointStatus::NotReady);
    }
}

/// What cannot get better by waiting fails the start.
fn judge_first_failure(error: &async_nats::ConnectError, servers: &str) -> Result<(), NatsError> {
    let servers = servers.to_owned();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            Err(NatsError::Refused { servers })
        }
        ConnectErrorKind::ServerParse => Err(NatsError::Address {
            servers,
            reason: error.to_string(),
        }),
        ConnectErrorKind::Tls => Err(NatsError::Tls {
            servers,
            reason: error.to_string(),
        }),
        ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => Ok(()),
    }
}
