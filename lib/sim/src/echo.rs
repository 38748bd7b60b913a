//! The two hosts: a worker that echoes, byte by byte, and a client that makes a plan's requests
//! and checks each answer.
//!
//! Both are made of the runtime's real parts: object model, discovery, request plane.

use crate::plan::{Plan, RequestPlan};
use crate::scenario::{Outcome, Violation};
use crate::{Trace, environment};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::Tasks;
use dynamo_runtime::component::{Call, Client, DistributedRuntime, Endpoint};
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::discovery::{EndpointId, Metadata};
use dynamo_runtime::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, TcpPlane, TcpPlaneOptions,
};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The worker's host.
pub const WORKER: &str = "worker";
/// The client's host.
pub const CLIENT: &str = "client";

/// Port that both hosts listen on.
const PORT: u16 = 7000;

/// The longest that a request may say nothing: three seconds in which a connection that is being
/// made fails, three for its handshake, and one for the messages' own time.
pub const QUIET_BOUND: Duration = Duration::from_secs(7);

/// What both hosts and the judge share. Hosts talk to each other over the network alone; this is
/// the simulator's view of them.
#[derive(Debug, Clone)]
pub struct Shared {
    /// What happened.
    pub trace: Trace,
    /// Where the hosts find each other.
    pub registry: MemRegistry,
    /// Answers that run on the worker.
    pub running: watch::Sender<usize>,
    /// How the requests ended, by id.
    pub outcomes: Arc<Mutex<Vec<(String, Outcome)>>>,
    /// What must not have happened.
    pub violations: Arc<Mutex<Vec<Violation>>>,
}

/// Answers with the bytes of the request, one an item, at the pace that it asks for.
#[derive(Debug)]
struct Echo {
    trace: Trace,
    running: watch::Sender<usize>,
}

/// Counts an answer for as long as it runs.
struct Running {
    id: Arc<str>,
    trace: Trace,
    running: watch::Sender<usize>,
}

/// What the client's requests share.
struct Asking {
    client: Client,
    shared: Shared,
    started: Instant,
}

type Failed = Box<dyn Error>;

impl Shared {
    /// Nothing happened yet.
    pub fn new() -> Self {
        Self {
            trace: Trace::new(),
            registry: MemRegistry::new(),
            running: watch::Sender::new(0),
            outcomes: Arc::default(),
            violations: Arc::default(),
        }
    }

    fn violated(&self, violation: Violation) {
        self.trace.record(CLIENT, format_args!("{violation}"));
        self.violations.lock().push(violation);
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// The endpoint as a host sees it, and the host's tasks.
async fn start(
    host: &'static str,
    seed: u64,
    shared: &Shared,
) -> Result<(Endpoint, Tasks), Failed> {
    let environment = environment::of_host(host, seed, &shared.trace);
    let tasks = Tasks::root();
    let options = TcpPlaneOptions {
        host: "0.0.0.0".to_owned(),
        port: PORT,
        advertise_host: Some(host.to_owned()),
        ..TcpPlaneOptions::default()
    };
    let plane = TcpPlane::bind(environment.clone(), tasks.child(), &options).await?;
    let discovery = Arc::new(shared.registry.join());
    let runtime = DistributedRuntime::new(environment, tasks.clone(), discovery, Arc::new(plane));
    let id = EndpointId::new("simulated", "echo", "generate")?;
    Ok((runtime.endpoint(id), tasks))
}

/// The worker's software: serves until a task panics.
pub async fn worker(seed: u64, shared: Shared) -> Result<(), Failed> {
    let (endpoint, tasks) = start(WORKER, seed, &shared).await?;
    let echo = Echo {
        trace: shared.trace.clone(),
        running: shared.running.clone(),
    };
    let served = endpoint.serve_bytes(Arc::new(echo), Metadata::new()).await;
    let served = served?;
    tasks.cancellation().cancelled().await;
    drop(served);
    Err("a task of the worker panicked".into())
}

/// The client's software: makes the plan's requests, and ends when all is quiet again.
pub async fn client(plan: Plan, shared: Shared) -> Result<(), Failed> {
    let started = Instant::now();
    let (endpoint, tasks) = start(CLIENT, plan.seed, &shared).await?;
    let client = endpoint.client();
    client.wait_for_instances(started + QUIET_BOUND).await?;
    let asking = Arc::new(Asking {
        client,
        shared: shared.clone(),
        started,
    });
    let requests = tasks.child();
    for request in plan.requests {
        let asking = Arc::clone(&asking);
        requests.spawn("simulated request", async move {
            let outcome = asking.ask(&request).await;
            let ended = (request.id, outcome);
            asking.shared.outcomes.lock().push(ended);
        });
    }
    requests.wait().await;
    // Answers that nobody reads any more end as well, within the bound for those that are read.
    let mut running = shared.running.subscribe();
    let idle = running.wait_for(|running| *running == 0);
    if timeout(QUIET_BOUND, idle).await.is_err() {
        let running = *shared.running.borrow();
        shared.violated(Violation::LeftRunning { running });
    }
    if tasks.cancellation().is_cancelled() {
        shared.violated(Violation::Panicked);
    }
    if timeout(QUIET_BOUND, tasks.stop()).await.is_err() {
        shared.violated(Violation::NotStopped);
    }
    Ok(())
}

// === impl Echo ===

impl Handler for Echo {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let id = Arc::clone(&request.header.request_id);
        let attempt = request.header.attempt;
        self.trace
            .record(WORKER, format_args!("{id} begins, attempt {attempt}"));
        self.running.send_modify(|running| *running += 1);
        let running = Running {
            id,
            trace: self.trace.clone(),
            running: self.running.clone(),
        };
        Box::pin(async move {
            let (pace, text) = open_body(request.body)?;
            let items = stream::unfold((text, running), move |(mut text, running)| async move {
                if text.is_empty() {
                    return None;
                }
                sleep(pace).await;
                let payload = text.split_to(1);
                let item = Item {
                    positions: 1,
                    payload,
                };
                Some((Ok(item), (text, running)))
            });
            Ok(Box::pin(items) as ItemStream)
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Self { id, trace, running } = self;
        trace.record(WORKER, format_args!("{id} is over"));
        running.send_modify(|running| *running -= 1);
    }
}

fn body(plan: &RequestPlan) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u64(plan.pace.as_millis() as u64);
    body.put_slice(&plan.text);
    body.freeze()
}

fn open_body(mut body: Bytes) -> Result<(Duration, Bytes), RequestError> {
    let pace = body.try_get_u64().map_err(|_| {
        let message = "the body does not begin with a pace";
        RequestError::new(ErrorCode::InvalidRequest, message)
    })?;
    Ok((Duration::from_millis(pace), body))
}

// === impl Asking ===

impl Asking {
    /// Makes the request at its time and judges the answer.
    async fn ask(&self, plan: &RequestPlan) -> Outcome {
        sleep_until(self.started + plan.at).await;
        let outcome = match timeout(QUIET_BOUND, self.open(plan)).await {
            Ok(Ok(answer)) => self.read(plan, answer).await,
            Ok(Err(error)) => Outcome::Failed(error.code),
            Err(_) => Outcome::Hung,
        };
        self.record(plan, format_args!("{outcome:?}"));
        if let Some(violation) = judge(plan, &outcome) {
            self.shared.violated(violation);
        }
        outcome
    }

    async fn open(
        &self,
        plan: &RequestPlan,
    ) -> Result<dynamo_runtime::component::ResponseStream, RequestError> {
        self.record(plan, format_args!("is sent"));
        let call = Call {
            context: RequestContext {
                request_id: plan.id.as_str().into(),
                ..RequestContext::default()
            },
            deadline: plan.patience.map(|patience| Instant::now() + patience),
            ..Call::default()
        };
        self.client.round_robin(body(plan), call).await
    }

    async fn read(
        &self,
        plan: &RequestPlan,
        mut answer: dynamo_runtime::component::ResponseStream,
    ) -> Outcome {
        let mut read = 0;
        loop {
            if plan.gives_up_after == Some(read) {
                return Outcome::GivenUp;
            }
            let item = match timeout(QUIET_BOUND, answer.next()).await {
                Err(_) => return Outcome::Hung,
                Ok(None) if read == plan.text.len() => return Outcome::Complete,
                Ok(None) => return Outcome::CutShort,
                Ok(Some(Err(error))) => {
                    // One error, and nothing after it.
                    return match timeout(QUIET_BOUND, answer.next()).await {
                        Ok(None) => Outcome::Failed(error.code),
                        Ok(Some(_)) | Err(_) => Outcome::NotOver,
                    };
                }
                Ok(Some(Ok(item))) => item,
            };
            self.record(plan, format_args!("item {}", item.position));
            let expected = plan.text.get(read).map(std::slice::from_ref);
            if item.position != read as u64 || expected != Some(&item.payload[..]) {
                return Outcome::WrongItem;
            }
            read += 1;
        }
    }

    fn record(&self, plan: &RequestPlan, event: std::fmt::Arguments<'_>) {
        let trace = &self.shared.trace;
        trace.record(CLIENT, format_args!("{} {event}", plan.id));
    }
}

/// Whether a request may end like this.
fn judge(plan: &RequestPlan, outcome: &Outcome) -> Option<Violation> {
    let allowed = match outcome {
        Outcome::Complete => true,
        Outcome::GivenUp => plan.gives_up_after.is_some(),
        Outcome::Failed(_) if plan.must_succeed => false,
        Outcome::Failed(ErrorCode::WorkerLost | ErrorCode::WorkerUnreachable) => true,
        Outcome::Failed(ErrorCode::RequestTimeout) => plan.patience.is_some(),
        Outcome::Failed(_)
        | Outcome::CutShort
        | Outcome::WrongItem
        | Outcome::NotOver
        | Outcome::Hung => false,
    };
    (!allowed).then(|| Violation::Request {
        id: plan.id.clone(),
        outcome: *outcome,
    })
}
