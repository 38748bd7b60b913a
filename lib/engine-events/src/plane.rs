//! The event plane's medium over ZMQ: each process publishes on a socket of its own, and whoever
//! follows one of its channels connects and subscribes to the channel's topic.
//!
//! A message has four parts: the topic, the publisher's number and the message's (8 bytes each,
//! big endian), and the event plane's message. Any ZMQ subscriber can listen.

use crate::publisher::Publisher;
use crate::socket::Socket;
use crate::zmtp::{Arrival, MAX_MESSAGE_BYTES, SocketType, command, message};
use bytes::Bytes;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::event_plane::broadcast::{Broadcast, BroadcastError, Listening, Topic};
use dynamo_runtime::{Environment, Tasks};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};

/// The medium's name in addresses: `zmq://HOST:PORT/TOPIC`.
const SCHEME: &str = "zmq://";

/// Room for the parts before the event plane's message.
const PARTS_BYTES: usize = 4096;

/// Bytes before the context of a ping, by the protocol.
const PING_TTL_BYTES: usize = 2;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Events over ZMQ.
#[derive(Debug)]
pub struct ZmqEvents {
    environment: Environment,
    publisher: Publisher,
    address: String,
}

/// Why a process cannot publish over ZMQ.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZmqEventsError {
    /// The address cannot be listened on.
    #[error("cannot listen on {host} for zmq subscribers: {source}; choose another --tcp-host")]
    Bind {
        /// The host.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// Listening on every interface says nothing about how others get here.
    #[error("listening on {0} does not say how others reach this process; give --advertise-host")]
    NoAdvertiseHost(SocketAddr),
}

struct ZmqTopic {
    publisher: Publisher,
    address: String,
    name: String,
    number: u64,
    sent: AtomicU64,
}

struct ZmqListening {
    socket: Socket,
}

impl ZmqEvents {
    /// Listens on a free port of `host`; others reach it by `advertise_host` if that is given.
    pub async fn bind(
        environment: Environment,
        tasks: &Tasks,
        host: &str,
        advertise_host: Option<&str>,
    ) -> Result<Self, ZmqEventsError> {
        let failed = |source| ZmqEventsError::Bind {
            host: host.to_owned(),
            source,
        };
        let listener = environment.network.bind(&format!("{host}:0")).await;
        let listener = listener.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let address = match advertise_host {
            Some(host) => format!("{host}:{}", bound.port()),
            None if bound.ip().is_unspecified() => {
                return Err(ZmqEventsError::NoAdvertiseHost(bound));
            }
            None => bound.to_string(),
        };
        let publisher = Publisher::default();
        publisher.serve(listener, tasks);
        Ok(Self {
            environment,
            publisher,
            address,
        })
    }
}

impl Broadcast for ZmqEvents {
    fn open<'a>(
        &'a self,
        name: &'a EndpointId,
    ) -> Boxed<'a, Result<Box<dyn Topic>, BroadcastError>> {
        let number = self.environment.random.next_u64();
        // Ended, so that no topic is the beginning of another one.
        let name = format!("{name}-{number:016x};");
        let topic = ZmqTopic {
            publisher: self.publisher.clone(),
            address: format!("{SCHEME}{}/{name}", self.address),
            name,
            number,
            sent: AtomicU64::new(0),
        };
        Box::pin(std::future::ready(Ok(Box::new(topic) as Box<dyn Topic>)))
    }

    fn listen<'a>(
        &'a self,
        address: &'a str,
    ) -> Boxed<'a, Result<Box<dyn Listening>, BroadcastError>> {
        Box::pin(async move {
            let (host, topic) = address
                .strip_prefix(SCHEME)
                .and_then(|rest| rest.split_once('/'))
                .ok_or_else(|| BroadcastError(format!("{address} is no zmq address of events")))?;
            let network = &*self.environment.network;
            let listening = async {
                let mut socket = Socket::open(network, host, SocketType::Sub).await?;
                let subscription = [b"\x01", topic.as_bytes()].concat();
                socket.send(&message(&[&subscription])).await?;
                Ok(socket)
            };
            match listening.await {
                Ok(socket) => Ok(Box::new(ZmqListening { socket }) as Box<dyn Listening>),
                Err(error) => {
                    let error: crate::socket::SocketError = error;
                    Err(BroadcastError(format!("cannot listen to {host}: {error}")))
                }
            }
        })
    }
}

impl Topic for ZmqTopic {
    fn address(&self) -> &str {
        &self.address
    }

    fn max_message(&self) -> usize {
        MAX_MESSAGE_BYTES - PARTS_BYTES
    }

    fn send(&self, message: Bytes) -> Boxed<'_, ()> {
        let number = self.number.to_be_bytes();
        let sequence = self.sent.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.publisher
            .publish(&self.name, &[&number, &sequence, &message]);
        Box::pin(std::future::ready(()))
    }
}

impl Listening for ZmqListening {
    fn next(&mut self) -> Boxed<'_, Option<Bytes>> {
        Box::pin(async {
            loop {
                match self.socket.receive().await {
                    Ok(Arrival::Message(mut parts)) if parts.len() == 4 => return parts.pop(),
                    Ok(Arrival::Message(_)) => {
                        tracing::debug!("a zmq message that is no event");
                    }
                    Ok(Arrival::Command { name, body }) if name == "PING" => {
                        let context = body.get(PING_TTL_BYTES..).unwrap_or_default();
                        self.socket.send(&command("PONG", context)).await.ok()?;
                    }
                    Ok(Arrival::Command { .. }) => {}
                    Err(error) => {
                        tracing::debug!(%error, "a zmq publisher is lost");
                        return None;
                    }
                }
            }
        })
    }
}

impl fmt::Debug for ZmqListening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZmqListening").finish_non_exhaustive()
    }
}
