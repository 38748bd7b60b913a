//! What a token costs on the request plane: CPU time per item on each side, as one JSON line.
//!
//! A server process answers each call with items of `--bytes` bytes, one position each and not
//! batched by the engine; a client process reads `--streams` streams at once. With
//! `--tokens-per-second` each stream is paced, without it the server sends flat out.
//!
//! ```text
//! cargo run --release -p dynamo-runtime --example plane_throughput -- \
//!     --streams 64 --tokens 5000000 --bytes 64 --threads 2 [--tokens-per-second 50]
//! ```
#![expect(
    clippy::print_stdout,
    reason = "the result and the server's address go to stdout"
)]

use bytes::Bytes;
use dynamo_protocols::RequestError;
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, RequestHeader, RequestPlane, TcpPlane,
    TcpPlaneOptions,
};
use dynamo_runtime::{Environment, Tasks};
use futures_util::future::{BoxFuture, try_join_all};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Clock ticks per second in `/proc/PID/stat`: fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Items of the run that opens the connection and warms both processes up.
const WARM_UP_ITEMS: u64 = 50_000;

type Failure = Box<dyn Error + Send + Sync>;

#[derive(Debug, Clone)]
struct Options {
    streams: u64,
    tokens: u64,
    bytes: usize,
    threads: usize,
    tokens_per_second: u64,
}

/// What the client asks of the server for one stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Wanted {
    items: u64,
    bytes: usize,
    per_second: u64,
}

#[derive(Debug)]
struct Source;

#[derive(Debug, Serialize)]
struct Report {
    streams: u64,
    tokens: u64,
    bytes: usize,
    threads: usize,
    tokens_per_second_and_stream: u64,
    seconds: f64,
    server_cpu_seconds: f64,
    client_cpu_seconds: f64,
    server_cpu_microseconds_per_token: f64,
    client_cpu_microseconds_per_token: f64,
}

impl Handler for Source {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        Box::pin(async move {
            let wanted: Wanted = serde_json::from_slice(&request.body)
                .map_err(|error| RequestError::invalid("body", error.to_string()))?;
            let item = Item {
                positions: 1,
                payload: Bytes::from(vec![b'x'; wanted.bytes]),
            };
            let items = stream::repeat(item).take(wanted.items as usize).map(Ok);
            if wanted.per_second == 0 {
                return Ok(Box::pin(items) as ItemStream);
            }
            let mut ticks = interval(Duration::from_secs(1) / wanted.per_second as u32);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let ticks = stream::unfold(ticks, |mut ticks| async move {
                ticks.tick().await;
                Some(((), ticks))
            });
            Ok(Box::pin(items.zip(ticks).map(|(item, ())| item)) as ItemStream)
        })
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let serve = arguments.iter().any(|argument| argument == "--serve");
    let options = Options {
        streams: number(&arguments, "--streams", 64)?,
        tokens: number(&arguments, "--tokens", 5_000_000)?,
        bytes: number(&arguments, "--bytes", 64)? as usize,
        threads: number(&arguments, "--threads", 2)? as usize,
        tokens_per_second: number(&arguments, "--tokens-per-second", 0)?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads)
        .enable_all()
        .build()?;
    if serve {
        return runtime.block_on(run_server());
    }
    let mut server = start_server(options.threads)?;
    let report = runtime.block_on(run_client(&options, &mut server));
    // Its stdin closes and it ends.
    drop(server.stdin.take());
    server.wait()?;
    println!("{}", serde_json::to_string(&report?)?);
    Ok(())
}

fn number(arguments: &[String], name: &str, default: u64) -> Result<u64, Failure> {
    let given = arguments.iter().position(|argument| argument == name);
    let Some(value) = given.and_then(|at| arguments.get(at + 1)) else {
        return Ok(default);
    };
    Ok(value.parse()?)
}

fn endpoint() -> Result<EndpointId, Failure> {
    Ok(EndpointId::new("bench", "plane", "source")?)
}

async fn run_server() -> Result<(), Failure> {
    let tasks = Tasks::root();
    let options = TcpPlaneOptions::default();
    let plane = TcpPlane::bind(Environment::system(), tasks.child(), &options).await?;
    let _serving = plane.handlers().register(endpoint()?, Arc::new(Source))?;
    println!("{}", plane.address());
    let input = Environment::system();
    input
        .compute(|| std::io::stdin().lock().read_line(&mut String::new()))
        .await??;
    tasks.stop().await;
    Ok(())
}

fn start_server(threads: usize) -> Result<Child, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--serve", "--threads", &threads.to_string()]);
    Ok(command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?)
}

async fn run_client(options: &Options, server: &mut Child) -> Result<Report, Failure> {
    let mut address = String::new();
    let stdout = server.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut address)?;
    let address = address.trim();
    let tasks = Tasks::root();
    let plane_options = TcpPlaneOptions::default();
    let plane = TcpPlane::bind(Environment::system(), tasks.child(), &plane_options).await?;

    let warm_up = Options {
        tokens: WARM_UP_ITEMS,
        tokens_per_second: 0,
        ..options.clone()
    };
    read_all(&plane, &tasks, address, &warm_up).await?;
    let (own, its) = ("self".to_owned(), server.id().to_string());
    let before = (cpu_seconds(&own)?, cpu_seconds(&its)?);
    let start = Instant::now();
    read_all(&plane, &tasks, address, options).await?;
    let seconds = start.elapsed().as_secs_f64();
    let client_cpu_seconds = cpu_seconds(&own)? - before.0;
    let server_cpu_seconds = cpu_seconds(&its)? - before.1;
    tasks.stop().await;
    let per_token = 1e6 / options.tokens as f64;
    Ok(Report {
        streams: options.streams,
        tokens: options.tokens,
        bytes: options.bytes,
        threads: options.threads,
        tokens_per_second_and_stream: options.tokens_per_second,
        seconds,
        server_cpu_seconds,
        client_cpu_seconds,
        server_cpu_microseconds_per_token: server_cpu_seconds * per_token,
        client_cpu_microseconds_per_token: client_cpu_seconds * per_token,
    })
}

/// Reads all streams, each in a task of its own, as the requests of a frontend are.
async fn read_all(
    plane: &TcpPlane,
    tasks: &Tasks,
    address: &str,
    options: &Options,
) -> Result<(), Failure> {
    let readers = (0..options.streams).map(|number| {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (plane, address, options) = (plane.clone(), address.to_owned(), options.clone());
        tasks.spawn("read a stream", async move {
            let read = read_one(&plane, &address, &options, number).await;
            // The receiver went away: another stream failed already.
            drop(sender.send(read));
        });
        async move { receiver.await.map_err(Failure::from)? }
    });
    try_join_all(readers).await?;
    Ok(())
}

async fn read_one(
    plane: &TcpPlane,
    address: &str,
    options: &Options,
    number: u64,
) -> Result<(), Failure> {
    let rest = u64::from(number < options.tokens % options.streams);
    let wanted = Wanted {
        items: options.tokens / options.streams + rest,
        bytes: options.bytes,
        per_second: options.tokens_per_second,
    };
    let instance = InstanceId::from_bits(1);
    let header = RequestHeader::new(format!("stream-{number}"), endpoint()?, instance);
    let body = Bytes::from(serde_json::to_vec(&wanted)?);
    let mut items = plane.call(address, header, body).await?;
    let mut received = 0;
    while let Some(item) = items.next().await {
        received += 1;
        if item?.payload.len() != options.bytes {
            return Err("an item has another length".into());
        }
    }
    if received != wanted.items {
        return Err(format!("{received} items instead of {}", wanted.items).into());
    }
    Ok(())
}

/// User and system time of a process so far.
fn cpu_seconds(process: &str) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in brackets, may contain spaces; user and system time are fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').ok_or("unreadable stat")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<f64, Failure> { Ok(times.next().ok_or("short stat")?.parse()?) };
    Ok((next()? + next()?) / TICKS_PER_SECOND)
}
