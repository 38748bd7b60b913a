//! The `tcp` backend: one multiplexed connection per peer and traffic class.
//!
//! This file owns the listener's life, the pool of outgoing connections and the heartbeat that
//! both sides share. Frames are in [`super::frame`], a connection's two sides in `tcp_server` and
//! `tcp_client`.
//!
//! Invariants
//! - There is at most one connection to a peer per class; calls that come while it is being made
//!   wait for it, and fail with it.
//! - A connection that ended is replaced by the next call, never by a background loop. After
//!   failed attempts there is a pause that grows with each of them up to a bound; calls in it fail
//!   at once with the last error, so that nobody waits for a peer that is known to be gone.

use super::frame;
use super::handlers::Handlers;
use super::handshake::ConnectionError;
use super::liveness::{Liveness, PING_INTERVAL, Verdict};
use super::outbox::Outbox;
use super::tcp_client::ClientConnection;
use super::tcp_server::{Limits, MAX_CONNECTIONS, MAX_STREAMS_PER_CONNECTION};
use super::{
    MAX_PROTOCOL_VERSION, MIN_PROTOCOL_VERSION, RequestHeader, RequestPlane, ResponseStream,
    TrafficClass, tcp_server,
};
use crate::environment::{Listener, Network};
use crate::tls::TlsNetwork;
use crate::{Environment, Tasks};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The transport's name in addresses.
const SCHEME: &str = "tcp://";

/// The same with TLS: processes that do not agree on it are told so by each other's addresses.
const TLS_SCHEME: &str = "tls://";

/// Peers to remember before those without a connection are forgotten: workers come back under
/// new ports, and a long life must not collect the old ones.
const REMEMBERED_PEERS: usize = 1024;

/// How long to leave a peer alone after a failed attempt to connect; doubled with each further
/// one up to [`LONGEST_RECONNECT_PAUSE`]. It spares a peer that is down a storm of attempts, and
/// is short beside a restart.
const RECONNECT_PAUSE: Duration = Duration::from_millis(25);

/// See [`RECONNECT_PAUSE`].
const LONGEST_RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Connections to try for one call: one that was pooled and turned out dead, and a new one.
const CONNECTIONS_PER_CALL: usize = 2;

/// Where the backend listens and how others reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpPlaneOptions {
    /// Address to listen on.
    pub host: String,
    /// Port to listen on; 0 takes a free one.
    pub port: u16,
    /// Host that others reach this process by, if it is not the one listened on.
    pub advertise_host: Option<String>,
    /// Connections taken at once.
    pub max_connections: usize,
    /// Streams that one connection may carry at once.
    pub max_streams_per_connection: usize,
    /// Newest version of the protocol to speak, for a fleet in which not all speak it well.
    pub newest_version: u16,
}

impl Default for TcpPlaneOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 0,
            advertise_host: None,
            max_connections: MAX_CONNECTIONS,
            max_streams_per_connection: MAX_STREAMS_PER_CONNECTION,
            newest_version: MAX_PROTOCOL_VERSION,
        }
    }
}

/// Why the backend could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TcpPlaneError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} for requests: {source}; choose another --tcp-port (0 takes a free one)"
    )]
    Bind {
        /// The address.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Listening on every interface says nothing about how others get here.
    #[error("listening on {0} does not say how others reach this process; give --advertise-host")]
    NoAdvertiseHost(SocketAddr),
}

/// The `tcp` request plane of one process. Cheap to clone; clones are the same plane.
#[derive(Debug, Clone)]
pub struct TcpPlane {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    environment: Environment,
    tasks: Tasks,
    handlers: Handlers,
    newest_version: u16,
    scheme: &'static str,
    address: String,
    peers: Mutex<BTreeMap<(String, TrafficClass), Arc<Peer>>>,
}

/// What carries the frames in place of the environment's sockets: byte streams, made in any way.
pub struct Carrier {
    /// The transport's name in addresses, `tcp://`.
    pub scheme: &'static str,
    /// Makes connections to addresses without the scheme.
    pub network: Arc<dyn Network>,
    /// Where this process's peers come in.
    pub listener: Box<dyn Listener>,
    /// How others reach it, without the scheme.
    pub address: String,
}

/// The place of one outgoing connection.
#[derive(Debug, Default)]
struct Peer {
    connecting: tokio::sync::Mutex<Option<Failed>>,
    connection: Mutex<Option<Arc<ClientConnection>>>,
}

/// Attempts to connect that failed, with none that succeeded since.
#[derive(Debug, Clone)]
struct Failed {
    times: u32,
    /// Before this nobody tries again.
    until: Instant,
    error: RequestError,
}

impl TcpPlane {
    /// Listens, and serves what is registered, until `tasks` are cancelled.
    pub async fn bind(
        environment: Environment,
        tasks: Tasks,
        options: &TcpPlaneOptions,
    ) -> Result<Self, TcpPlaneError> {
        Self::bind_as(SCHEME, environment, tasks, options).await
    }

    /// The same over a network whose connections are encrypted.
    pub async fn bind_encrypted(
        environment: Environment,
        network: TlsNetwork,
        tasks: Tasks,
        options: &TcpPlaneOptions,
    ) -> Result<Self, TcpPlaneError> {
        let environment = Environment {
            network: Arc::new(network),
            ..environment
        };
        Self::bind_as(TLS_SCHEME, environment, tasks, options).await
    }

    async fn bind_as(
        scheme: &'static str,
        environment: Environment,
        tasks: Tasks,
        options: &TcpPlaneOptions,
    ) -> Result<Self, TcpPlaneError> {
        let wanted = format!("{}:{}", options.host, options.port);
        let bind_error = |source| TcpPlaneError::Bind {
            address: wanted.clone(),
            source,
        };
        let listener = environment
            .network
            .bind(&wanted)
            .await
            .map_err(bind_error)?;
        let bound = listener.local_addr().map_err(bind_error)?;
        let address = match &options.advertise_host {
            Some(host) => format!("{host}:{}", bound.port()),
            None if bound.ip().is_unspecified() => {
                return Err(TcpPlaneError::NoAdvertiseHost(bound));
            }
            None => bound.to_string(),
        };
        let carrier = Carrier {
            scheme,
            network: Arc::clone(&environment.network),
            listener,
            address,
        };
        Ok(Self::over(environment, tasks, carrier, options))
    }

    /// Serves what is registered until `tasks` are cancelled, with connections that are made in
    /// another way. Host and port of the options are the carrier's business then.
    pub fn over(
        environment: Environment,
        tasks: Tasks,
        carrier: Carrier,
        options: &TcpPlaneOptions,
    ) -> Self {
        let Carrier {
            scheme,
            network,
            listener,
            address,
        } = carrier;
        let environment = Environment {
            network: Arc::clone(&network),
            ..environment
        };
        let handlers = Handlers::new();
        let limits = Limits {
            connections: options.max_connections,
            streams_per_connection: options.max_streams_per_connection,
            newest_version: options.newest_version,
        };
        tasks.spawn(
            "request plane listener",
            tcp_server::serve(listener, network, handlers.clone(), tasks.child(), limits),
        );
        Self {
            parts: Arc::new(Parts {
                environment,
                tasks,
                handlers,
                newest_version: options
                    .newest_version
                    .clamp(MIN_PROTOCOL_VERSION, MAX_PROTOCOL_VERSION),
                scheme,
                address: format!("{scheme}{address}"),
                peers: Mutex::default(),
            }),
        }
    }

    async fn open(
        &self,
        address: &str,
        header: RequestHeader,
        body: Bytes,
    ) -> Result<ResponseStream, RequestError> {
        let scheme = self.parts.scheme;
        let Some(host) = address.strip_prefix(scheme) else {
            return Err(RequestError::new(
                ErrorCode::WorkerUnreachable,
                format!(
                    "the worker is at {address}, and this process speaks {scheme}; \
                     start both with the same --request-plane and --tcp-tls options"
                ),
            ));
        };
        let peer = self.peer(host, header.class);
        for _ in 0..CONNECTIONS_PER_CALL {
            let connection = self.connection(&peer, host, header.class).await?;
            if let Ok(answer) = connection.open(&header, &body).await {
                return Ok(ResponseStream::new(answer?, header.start_position));
            }
        }
        Err(RequestError::new(
            ErrorCode::WorkerUnreachable,
            format!("the worker at {address} closes its connections"),
        ))
    }

    fn peer(&self, host: &str, class: TrafficClass) -> Arc<Peer> {
        let mut peers = self.parts.peers.lock();
        if let Some(peer) = peers.get(&(host.to_owned(), class)) {
            return Arc::clone(peer);
        }
        if peers.len() >= REMEMBERED_PEERS {
            peers.retain(|_, peer| Arc::strong_count(peer) > 1 || peer.usable().is_some());
        }
        Arc::clone(peers.entry((host.to_owned(), class)).or_default())
    }

    async fn connection(
        &self,
        peer: &Peer,
        host: &str,
        class: TrafficClass,
    ) -> Result<Arc<ClientConnection>, RequestError> {
        if let Some(connection) = peer.usable() {
            return Ok(connection);
        }
        let mut last = peer.connecting.lock().await;
        // Somebody else may have connected, or failed to, while this call waited.
        if let Some(connection) = peer.usable() {
            return Ok(connection);
        }
        if let Some(failed) = last.as_ref().filter(|failed| Instant::now() < failed.until) {
            return Err(failed.error.clone());
        }
        let Parts {
            environment,
            tasks,
            newest_version,
            ..
        } = &*self.parts;
        let connecting =
            ClientConnection::connect(environment, tasks, host, class, *newest_version);
        match connecting.await {
            Ok(connection) => {
                *last = None;
                *peer.connection.lock() = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                let times = last.as_ref().map_or(0, |failed| failed.times);
                *last = Some(Failed {
                    times: times.saturating_add(1),
                    until: Instant::now() + reconnect_pause(times),
                    error: error.clone(),
                });
                Err(error)
            }
        }
    }
}

impl RequestPlane for TcpPlane {
    fn handlers(&self) -> &Handlers {
        &self.parts.handlers
    }

    fn address(&self) -> &str {
        &self.parts.address
    }

    fn versions(&self) -> RangeInclusive<u16> {
        MIN_PROTOCOL_VERSION..=self.parts.newest_version
    }

    fn call<'a>(
        &'a self,
        address: &'a str,
        header: RequestHeader,
        body: Bytes,
    ) -> BoxFuture<'a, Result<ResponseStream, RequestError>> {
        Box::pin(self.open(address, header, body))
    }
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carrier")
            .field("scheme", &self.scheme)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Peer {
    fn usable(&self) -> Option<Arc<ClientConnection>> {
        let connection = self.connection.lock();
        connection.as_ref().filter(|it| it.is_usable()).cloned()
    }
}

/// The pause after a failure that `times` failures went before.
fn reconnect_pause(times: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(times.min(16));
    RECONNECT_PAUSE
        .saturating_mul(doubled)
        .min(LONGEST_RECONNECT_PAUSE)
}

/// Pings the peer at each interval until it has been silent for too long.
pub(super) async fn keep_alive(
    outbox: &Outbox,
    heard: &Mutex<Instant>,
    network: &dyn Network,
) -> ConnectionError {
    let mut liveness = Liveness::new(Instant::now());
    for nonce in 0_u64.. {
        tokio::time::sleep(PING_INTERVAL).await;
        if network.excuses_silence() {
            liveness.excuse(Instant::now());
        }
        let last_heard = *heard.lock();
        match liveness.tick(Instant::now(), last_heard) {
            Verdict::Gone => return ConnectionError::Silent,
            Verdict::Ping => {
                if outbox
                    .put_control(|out| frame::put_ping(out, nonce))
                    .is_err()
                {
                    return ConnectionError::NotReading;
                }
            }
        }
    }
    ConnectionError::Silent
}
