//! The object model over real processes: file discovery, tcp, and real signals to the worker.

use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::component::{Client, DistributedRuntime, Endpoint, HandlerStream};
use dynamo_runtime::discovery::file::{FileDiscovery, FileTimings};
use dynamo_runtime::discovery::{EndpointId, Metadata};
use dynamo_runtime::request_plane::{RequestHeader, TcpPlane, TcpPlaneOptions};
use dynamo_runtime::shutdown::{Shutdown, Signals};
use dynamo_runtime::{Environment, Tasks};
use futures_util::{StreamExt, stream};
use rustix::process::{Pid, Signal, kill_process};
use std::convert::Infallible;
use std::future::pending;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Nothing in a healthy run takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Items of a stream. The first one comes at once, the others when the worker drains.
const ITEMS: u64 = 1000;

async fn endpoint(folder: &Path, tasks: &Tasks) -> Endpoint {
    let environment = Environment::system();
    let timings = FileTimings::default();
    let discovery = FileDiscovery::open(folder, environment.clone(), tasks, timings).unwrap();
    let options = TcpPlaneOptions::default();
    let plane = TcpPlane::bind(environment.clone(), tasks.child(), &options).await;
    let runtime = DistributedRuntime::new(
        environment,
        tasks.clone(),
        Arc::new(discovery),
        Arc::new(plane.unwrap()),
    );
    runtime.endpoint(EndpointId::new("ns", "worker", "count").unwrap())
}

#[expect(clippy::exit, reason = "the exit code is what the parent looks at")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the worker of the tests below, which run it in a process of its own"]
async fn worker() {
    let mut folder = String::new();
    if std::io::stdin().read_line(&mut folder).unwrap() == 0 {
        return;
    }
    let tasks = Tasks::root();
    let endpoint = endpoint(Path::new(folder.trim()), &tasks).await;
    let shutdown = Shutdown::new(PATIENCE);
    let signals = Signals::system().unwrap();
    let draining = shutdown.draining().clone();
    let count = move |start: u64, _: RequestHeader| {
        let draining = draining.clone();
        async move {
            let items = stream::iter(start..start + ITEMS).then(move |number| {
                let draining = draining.clone();
                async move {
                    if number > start {
                        draining.cancelled().await;
                    }
                    Ok(serde_json::Value::from(number))
                }
            });
            Ok::<HandlerStream<serde_json::Value>, RequestError>(Box::pin(items))
        }
    };
    let served = endpoint.serve(count, Metadata::new()).await.unwrap();
    let status = shutdown
        .supervise::<Infallible>(signals, &tasks, pending(), served.drain())
        .await;
    std::process::exit(i32::from(status.code()));
}

/// Runs `worker` in a process of its own. It is killed with the test that started it.
struct Worker(Child);

impl Worker {
    fn spawn(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "component_processes::worker"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "{}", folder.display()).unwrap();
        Self(child)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

async fn until_instances(client: &Client, count: usize) {
    let mut instances = client.watch_instances();
    let reached = instances.wait_for(|all| all.as_ref().is_some_and(|all| all.len() == count));
    tokio::time::timeout(PATIENCE, reached)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_asked_to_end_finishes_its_streams_and_exits_with_0() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("discovery");
    let mut worker = Worker::spawn(&folder);
    let tasks = Tasks::root();
    let endpoint = endpoint(&folder, &tasks).await;
    let client = endpoint.typed_client::<u64, serde_json::Value>();
    client
        .untyped()
        .wait_for_instances(Instant::now() + PATIENCE)
        .await
        .unwrap();
    let context = RequestContext::default();
    let mut answer = client.round_robin(&5, context).await.unwrap();
    assert_eq!(answer.next().await.unwrap().unwrap(), 5);
    worker.signal(Signal::TERM);
    let rest: Vec<u64> = answer
        .map(|item| item.unwrap().as_u64().unwrap())
        .collect()
        .await;
    assert!(rest.into_iter().eq(6..5 + ITEMS));
    until_instances(client.untyped(), 0).await;
    assert_eq!(worker.0.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_killed_worker_end_with_an_error_and_calls_go_to_the_other() {
    let temp = tempfile::tempdir().unwrap();
    let folder = temp.path().join("discovery");
    let mut workers = [Worker::spawn(&folder), Worker::spawn(&folder)];
    let tasks = Tasks::root();
    let endpoint = endpoint(&folder, &tasks).await;
    let client = endpoint.typed_client::<u64, serde_json::Value>();
    until_instances(client.untyped(), 2).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let context = RequestContext::default();
        let mut answer = client.round_robin(&0, context).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), 0);
        answers.push(answer);
    }
    workers[0].0.kill().unwrap();
    workers[0].0.wait().unwrap();
    // One of the two streams was the victim's.
    let [one, two] = &mut answers[..] else {
        unreachable!("two were pushed");
    };
    let ended = tokio::select! {
        biased;
        ended = one.next() => ended,
        ended = two.next() => ended,
    };
    assert_eq!(ended.unwrap().unwrap_err().code, ErrorCode::WorkerLost);
    for _ in 0..4 {
        let context = RequestContext::default();
        let mut answer = client.round_robin(&7, context).await.unwrap();
        assert_eq!(answer.next().await.unwrap().unwrap(), 7);
    }
    until_instances(client.untyped(), 1).await;
}
