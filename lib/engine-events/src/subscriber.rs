//! Listens to one publisher: connects, subscribes, asks for replays, connects again.
//!
//! Invariants
//! - One task per publisher. It ends with its [`Tasks`] or when the receiver is dropped.
//! - No input ends the task: a broken message is counted, a broken connection is made anew.
//! - A replay never holds up live messages for longer than its answers take to read.

mod backoff;
mod replay;

use crate::endpoint::ZmqEndpoint;
use crate::event::{EngineEvent, EventBatch, SourceItem};
use crate::groups::Groups;
use crate::metrics::{Disconnected, EngineEventMetrics, Refused, ReplayResult, Skipped};
use crate::outlet::Outlet;
use crate::socket::{Socket, SocketError};
use crate::source::{END_OF_REPLAY, Source, Step};
use crate::wire;
use crate::zmtp::{Arrival, SocketType, command, message};
use backoff::Backoff;
use bytes::Bytes;
use dynamo_runtime::{Environment, Tasks};
use replay::{Answer, Replay};
use std::fmt;
use std::future::pending;
use std::time::Duration;
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, sleep, sleep_until};

/// How long a publisher may be silent before it is asked for a sign of life.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Heartbeats without an answer after which the connection is made anew.
const UNANSWERED_HEARTBEATS: u32 = 3;

/// Longest heartbeat context that a peer may ask back, by the protocol.
const MAX_PING_CONTEXT: usize = 16;

/// Bytes before the context of a ping: how long the peer waits.
const PING_TTL_BYTES: usize = 2;

/// What to listen to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberOptions {
    /// The publisher.
    pub endpoint: ZmqEndpoint,
    /// Its replay socket, if it has one.
    pub replay: Option<ZmqEndpoint>,
    /// What topics begin with; empty for all.
    pub topic: String,
}

/// A listener to one publisher.
#[derive(Debug)]
pub struct Subscriber {
    options: SubscriberOptions,
    environment: Environment,
    metrics: EngineEventMetrics,
    source: Source,
    groups: Groups,
    outlet: Outlet,
    /// The connection brought a message.
    useful: bool,
    /// A message of this connection was not read, and that was logged: the others are counted.
    complained: bool,
}

/// What the loop of a connection wakes up for.
enum Event {
    Answer(Result<Answer, SocketError>),
    Live(Result<Arrival, SocketError>),
    Quiet,
    Paid,
}

impl Subscriber {
    /// Starts to listen. What comes, comes out of the receiver in order; dropping it stops.
    pub fn start(
        options: SubscriberOptions,
        environment: &Environment,
        tasks: &Tasks,
        metrics: &EngineEventMetrics,
    ) -> Receiver<SourceItem> {
        let (outlet, receiver) = Outlet::new(metrics.clone());
        let closed = outlet.closed();
        let subscriber = Self {
            source: Source::new(options.replay.is_some()),
            options,
            environment: environment.clone(),
            metrics: metrics.clone(),
            groups: Groups::default(),
            outlet,
            useful: false,
            complained: false,
        };
        tasks.spawn_until_cancelled("engine events", async move {
            tokio::select! {
                biased;
                () = closed => {}
                () = subscriber.run() => {}
            }
        });
        receiver
    }

    async fn run(mut self) {
        let mut backoff = Backoff::default();
        loop {
            let Err(error) = self.session().await;
            let why = match &error {
                SocketError::Io(_) => Disconnected::Unreachable,
                SocketError::Closed => Disconnected::Closed,
                SocketError::Silent => Disconnected::Silent,
                SocketError::Protocol(_) => Disconnected::Protocol,
            };
            self.metrics.disconnected(why);
            if std::mem::take(&mut self.useful) {
                backoff = Backoff::default();
            }
            let wait = backoff.next(self.environment.random.next_u64());
            let endpoint = &self.options.endpoint;
            if matches!(error, SocketError::Protocol(_)) {
                tracing::warn!(%endpoint, %error, "engine events: not a publisher");
            } else {
                tracing::debug!(%endpoint, %error, "engine events: no connection");
            }
            sleep(wait).await;
        }
    }

    /// One connection, from its beginning to its end.
    async fn session(&mut self) -> Result<std::convert::Infallible, SocketError> {
        let network = self.environment.network.clone();
        let address = self.options.endpoint.address();
        let mut socket = Socket::open(&*network, &address, SocketType::Sub).await?;
        let subscription = [b"\x01", self.options.topic.as_bytes()].concat();
        socket.send(&message(&[&subscription])).await?;
        self.metrics.connected();
        self.complained = false;
        tracing::info!(endpoint = %self.options.endpoint, "engine events: subscribed");

        let mut steps = Vec::new();
        let mut replay = None;
        self.source.connected(&mut steps);
        let mut heartbeat = Instant::now() + HEARTBEAT;
        let mut unanswered = 0;
        loop {
            self.perform(&mut steps, &mut replay).await;
            let event = self.wait(&mut socket, &mut replay, heartbeat).await;
            match event {
                Event::Answer(answer) => self.take_answer(answer, &mut replay, &mut steps),
                Event::Live(arrival) => {
                    unanswered = 0;
                    heartbeat = Instant::now() + HEARTBEAT;
                    match arrival? {
                        Arrival::Message(parts) => self.take_message(parts, &mut steps),
                        Arrival::Command { name, body } if name == "PING" => {
                            let context = body.get(PING_TTL_BYTES..).unwrap_or_default();
                            let context = context.get(..MAX_PING_CONTEXT).unwrap_or(context);
                            socket.send(&command("PONG", context)).await?;
                        }
                        // Answers to heartbeats, and commands of later versions.
                        Arrival::Command { .. } => {}
                    }
                }
                Event::Quiet => {
                    if unanswered >= UNANSWERED_HEARTBEATS {
                        return Err(SocketError::Silent);
                    }
                    if socket.answers_pings() {
                        unanswered += 1;
                        // The peer shall wait for as long as it takes: we judge, not it.
                        socket.send(&command("PING", &[0; PING_TTL_BYTES])).await?;
                    }
                    heartbeat = Instant::now() + HEARTBEAT;
                }
                Event::Paid => {}
            }
        }
    }

    async fn wait(
        &mut self,
        socket: &mut Socket,
        replay: &mut Option<Replay>,
        heartbeat: Instant,
    ) -> Event {
        let answer = async {
            match replay {
                Some(replay) => replay.next().await,
                None => pending().await,
            }
        };
        let owes = self.outlet.owes();
        tokio::select! {
            biased;
            answer = answer => Event::Answer(answer),
            arrival = socket.receive() => Event::Live(arrival),
            () = self.outlet.pay(), if owes => Event::Paid,
            () = sleep_until(heartbeat) => Event::Quiet,
        }
    }

    /// A live message: topic, number, payload.
    fn take_message(&mut self, parts: Vec<Bytes>, steps: &mut Vec<Step>) {
        let Ok([_, number, payload]) = <[Bytes; 3]>::try_from(parts) else {
            self.refuse(Refused::Parts, &"it has not three parts");
            return;
        };
        match read_number(&number) {
            Some(number) if number != END_OF_REPLAY => {
                self.useful = true;
                self.source.live(number, payload, steps);
            }
            _ => self.refuse(Refused::Sequence, &"its number is none"),
        }
    }

    fn take_answer(
        &mut self,
        answer: Result<Answer, SocketError>,
        replay: &mut Option<Replay>,
        steps: &mut Vec<Step>,
    ) {
        match answer {
            Ok(Answer::Message(number, payload)) => self.source.replayed(number, payload, steps),
            Ok(Answer::Broken) => self.refuse(Refused::Parts, &"an answer of other parts"),
            Ok(Answer::End) => {
                *replay = None;
                self.metrics.replay_ended(ReplayResult::Complete);
                self.source.replay_ended(true, steps);
            }
            Err(error) => {
                *replay = None;
                self.metrics.replay_ended(ReplayResult::Failed);
                let endpoint = &self.options.endpoint;
                tracing::info!(%endpoint, %error, "engine events: replay broke off");
                self.source.replay_ended(false, steps);
            }
        }
    }

    async fn perform(&mut self, steps: &mut Vec<Step>, replay: &mut Option<Replay>) {
        for step in steps.drain(..) {
            match step {
                Step::Deliver {
                    sequence,
                    payload,
                    catching_up,
                } => {
                    let item = self.read(sequence, &payload);
                    if catching_up {
                        self.outlet.send(item).await;
                    } else {
                        self.outlet.offer(item);
                    }
                }
                Step::Lost { first, count } => {
                    self.metrics.lost(count);
                    self.outlet.offer(SourceItem::Lost { first, count });
                }
                Step::Reset => {
                    self.metrics.reset();
                    self.groups.clear();
                    self.outlet.offer(SourceItem::Reset);
                }
                Step::Replay { from } => {
                    let network = self.environment.network.clone();
                    let endpoint = self.options.replay.as_ref();
                    *replay = endpoint.map(|it| Replay::start(network, it.address(), from));
                }
            }
        }
    }

    /// Counts a message that is not read. A publisher that sends nothing else would fill the log:
    /// one line for each connection.
    fn refuse(&mut self, why: Refused, error: &dyn fmt::Display) {
        self.metrics.refused(why);
        if !std::mem::replace(&mut self.complained, true) {
            let endpoint = &self.options.endpoint;
            tracing::warn!(%endpoint, %error, "engine events: message not read; more are counted");
        }
    }

    /// Reads a payload. One that cannot be read is a message lost.
    fn read(&mut self, sequence: u64, payload: &[u8]) -> SourceItem {
        let payload = match wire::decode(payload) {
            Ok(payload) => payload,
            Err(error) => {
                self.refuse(Refused::Payload, &error);
                return SourceItem::Lost {
                    first: sequence,
                    count: 1,
                };
            }
        };
        let told = payload.events.len();
        let events: Vec<EngineEvent> = payload
            .events
            .into_iter()
            .filter(|it| self.groups.counts(&it.event, &it.scope))
            .map(|it| it.event)
            .collect();
        let others = (told - events.len()) as u64;
        self.metrics.skipped(Skipped::OtherCache, others);
        self.metrics.skipped(Skipped::UnknownKind, payload.unknown);
        self.metrics.skipped(Skipped::Malformed, payload.malformed);
        self.metrics.handed_on(&events);
        SourceItem::Batch(EventBatch {
            sequence,
            timestamp: payload.timestamp,
            dp_rank: payload.dp_rank,
            events,
        })
    }
}

fn read_number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
