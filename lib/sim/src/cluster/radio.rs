//! A medium that brings events to all who listen, like NATS subjects and ZMQ sockets: some are
//! lost, some come twice, and later ones overtake earlier ones.
//!
//! Faults that are on between publisher and subscriber keep it from them as well: what would be
//! held is lost, because such a medium does not send again.

use super::fault::{Host, Link, link};
use super::world::World;
use bytes::Bytes;
use dynamo_runtime::Environment;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::environment::RandomSource;
use dynamo_runtime::event_plane::broadcast::{Broadcast, BroadcastError, Listening, Topic};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Largest message, as a broker may have it.
const MOST_BYTES: usize = 16 * 1024;

/// Of so many messages one is lost, and of so many one comes twice.
const LOST_IN: u64 = 30;
const TWICE_IN: u64 = 15;

/// Messages that wait for one who listens; later ones are lost.
const MOST_WAITING: usize = 256;

/// What is on its way to whom.
#[derive(Debug, Default)]
pub(super) struct Air {
    ears: BTreeMap<u64, Ear>,
    last: u64,
}

/// Somebody who listens.
#[derive(Debug)]
struct Ear {
    host: Host,
    address: String,
    /// Messages by when they arrive.
    coming: BTreeMap<(Duration, u64), Bytes>,
    wake: Arc<Notify>,
}

/// The medium as one process has it.
#[derive(Clone)]
pub(super) struct Radio {
    host: Host,
    world: Arc<World>,
    random: Arc<dyn RandomSource>,
}

struct Station {
    radio: Radio,
    address: String,
}

struct Receiver {
    world: Arc<World>,
    number: u64,
    wake: Arc<Notify>,
}

impl Radio {
    pub(super) fn new(host: Host, world: &Arc<World>, environment: &Environment) -> Self {
        Self {
            host,
            world: Arc::clone(world),
            random: Arc::clone(&environment.random),
        }
    }

    fn once_in(&self, times: u64) -> bool {
        self.random.next_u64().is_multiple_of(times)
    }

    /// When a message that is sent now arrives.
    fn arrival(&self) -> Duration {
        let most = self.world.plan.max_latency.as_millis() as u64;
        self.world.now() + Duration::from_millis(self.random.next_u64() % most.max(1))
    }

    fn send(&self, address: &str, message: &Bytes) {
        let on = self.world.on.lock().clone();
        let air = &mut *self.world.air.lock();
        for ear in air.ears.values_mut().filter(|ear| ear.address == address) {
            if link(on.iter(), self.host, ear.host) != Link::Open || self.once_in(LOST_IN) {
                self.world.count("event messages lost", 1);
                continue;
            }
            let copies = if self.once_in(TWICE_IN) { 2 } else { 1 };
            self.world.count("event messages twice", copies - 1);
            for _ in 0..copies {
                if ear.coming.len() >= MOST_WAITING {
                    self.world.count("event messages lost", 1);
                    continue;
                }
                air.last += 1;
                let arrives = self.arrival();
                let overtaken = ear.coming.last_key_value();
                let overtakes = overtaken.is_some_and(|((at, _), _)| *at > arrives);
                self.world
                    .count("event messages overtaken", overtakes.into());
                ear.coming.insert((arrives, air.last), message.clone());
            }
            ear.wake.notify_one();
        }
    }
}

impl Broadcast for Radio {
    fn open<'a>(
        &'a self,
        name: &'a EndpointId,
    ) -> BoxFuture<'a, Result<Box<dyn Topic>, BroadcastError>> {
        // A process that starts again has another topic.
        let own = self.random.next_u64();
        let address = format!("radio://{}/{name}/{own:x}", self.host);
        let radio = self.clone();
        Box::pin(ready(Ok(
            Box::new(Station { radio, address }) as Box<dyn Topic>
        )))
    }

    fn listen<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Listening>, BroadcastError>> {
        let wake = Arc::new(Notify::new());
        let ear = Ear {
            host: self.host,
            address: address.to_owned(),
            coming: BTreeMap::new(),
            wake: Arc::clone(&wake),
        };
        let air = &mut *self.world.air.lock();
        air.last += 1;
        air.ears.insert(air.last, ear);
        let receiver = Receiver {
            world: Arc::clone(&self.world),
            number: air.last,
            wake,
        };
        Box::pin(ready(Ok(Box::new(receiver) as Box<dyn Listening>)))
    }
}

impl fmt::Debug for Radio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Radio").field(&self.host).finish()
    }
}

impl Topic for Station {
    fn address(&self) -> &str {
        &self.address
    }

    fn max_message(&self) -> usize {
        MOST_BYTES
    }

    fn send(&self, message: Bytes) -> BoxFuture<'_, ()> {
        self.radio.send(&self.address, &message);
        Box::pin(ready(()))
    }
}

impl Listening for Receiver {
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(async move {
            loop {
                let now = self.world.now();
                let first = {
                    let air = &mut *self.world.air.lock();
                    let coming = &mut air.ears.get_mut(&self.number)?.coming;
                    match coming.first_entry() {
                        Some(message) if message.key().0 <= now => return Some(message.remove()),
                        Some(message) => Some(message.key().0),
                        None => None,
                    }
                };
                let arrives = async {
                    match first {
                        Some(at) => sleep(at.saturating_sub(now)).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    () = self.wake.notified() => {}
                    () = arrives => {}
                }
            }
        })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.world.air.lock().ears.remove(&self.number);
    }
}
