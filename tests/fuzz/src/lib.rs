//! What is done with bytes of outsiders, as functions that any bytes can be given to. They panic
//! where something does not hold that must, whatever the bytes are.
//!
//! - [`frames`]: the request plane's connections
//! - [`records`]: what processes announce in discovery
//! - [`events`]: what workers and engines say of their caches
//! - [`bodies`]: what clients send over HTTP
//!
//! The programs in `targets` search for bytes with libFuzzer (`make fuzz`); what they found is kept
//! in `corpus` and given to these functions by a test.

use bytes::BytesMut;
use dynamo_engine_events::wire;
use dynamo_kv_router::{Index, Slot, Tier};
use dynamo_llm::card::ModelCard;
use dynamo_llm::echo::EchoOptions;
use dynamo_llm::echo_model::echo_model;
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::{
    PreprocessLimits, prepare_chat, prepare_completion, prepare_embedding,
};
use dynamo_protocols::engine::{EngineOutput, EngineRequest};
use dynamo_protocols::error::{Blame, RequestError};
use dynamo_protocols::kv::KvEvent;
use dynamo_protocols::openai::{ChatRequest, CompletionRequest, EmbeddingRequest, parse};
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};
use dynamo_runtime::Environment;
use dynamo_runtime::discovery::ProcessRecord;
use dynamo_runtime::environment::{ComputeError, ComputePool, Job};
use dynamo_runtime::request_plane::TrafficClass;
use dynamo_runtime::request_plane::frame::{self, Frame, MAX_FRAME_BYTES, MAX_HELLO_BYTES};
use futures_core::future::BoxFuture;
use std::sync::{Arc, LazyLock};
use tokio::time::Instant;

/// Does something with bytes that anybody may have sent.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: [(&str, Target); 4] = [
    ("frames", frames),
    ("records", records),
    ("events", events),
    ("bodies", bodies),
];

/// Blocks that the index may hold here: enough for runs and splits, little enough to be full.
const INDEX_BLOCKS: u64 = 4_096;

/// Workers of the index; the bytes choose among them.
const WORKERS: u32 = 4;

/// Runs jobs where they are given: what they cover counts for the bytes that made them.
#[derive(Debug)]
struct Inline;

impl ComputePool for Inline {
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), ComputeError>> {
        job();
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A connection's bytes, before its handshake and after it. A frame that is read is within the
/// bytes and comes back the same when it is written.
pub fn frames(bytes: &[u8]) {
    for limit in [MAX_HELLO_BYTES, MAX_FRAME_BYTES] {
        let mut rest = bytes;
        while let Ok(Some((frame, taken))) = frame::decode(rest, limit) {
            assert!(taken > 0 && taken <= rest.len());
            if let Some(written) = write(&frame) {
                let again = frame::decode(&written, MAX_FRAME_BYTES);
                assert_eq!(again.ok().flatten(), Some((frame.clone(), written.len())));
            }
            if let Frame::Request { header, .. } = frame {
                drop(header.open(TrafficClass::Latency, Instant::now()));
            }
            rest = &rest[taken..];
        }
    }
}

fn write(frame: &Frame<'_>) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    match frame {
        Frame::Hello(hello) => frame::put_hello(&mut out, hello),
        Frame::Request {
            stream,
            header,
            body,
        } => frame::put_request(&mut out, *stream, header, body),
        Frame::Item {
            stream,
            position,
            positions,
            payload,
        } => frame::put_item(&mut out, *stream, *position, *positions, payload),
        // Codes that nobody knows are read as unknown, and not written back.
        Frame::End { error: Some(_), .. } => return None,
        Frame::End { stream, .. } => frame::put_end(&mut out, *stream, None),
        Frame::Cancel { stream } => frame::put_cancel(&mut out, *stream),
        Frame::Credit { stream, bytes } => frame::put_credit(&mut out, *stream, *bytes),
        Frame::Ping(nonce) => frame::put_ping(&mut out, *nonce),
        Frame::Pong(nonce) => frame::put_pong(&mut out, *nonce),
        Frame::GoAway => frame::put_go_away(&mut out),
        Frame::Accepted { stream } => frame::put_accepted(&mut out, *stream),
    }
    Some(out)
}

/// A process's record. One that is read comes back the same when it is written; its cards may be
/// no model's.
pub fn records(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<ProcessRecord>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&record).expect("a record can be written");
    let again = serde_json::from_slice::<ProcessRecord>(&written);
    assert_eq!(again.ok().as_ref(), Some(&record));
    for card in record.cards {
        drop(serde_json::from_value::<ModelCard>(card.body));
    }
}

/// Payloads of workers' news, of engines' own events, and of requests and outputs between
/// processes. News that can be read go into an index, which stays consistent.
pub fn events(bytes: &[u8]) {
    let Some((&kind, payload)) = bytes.split_first() else {
        return;
    };
    match kind % 4 {
        0 => drop(wire::decode(payload)),
        1 => drop(rmp_serde::from_slice::<EngineRequest>(payload)),
        2 => drop(rmp_serde::from_slice::<EngineOutput>(payload)),
        _ => index(payload),
    }
}

fn index(mut payload: &[u8]) {
    let mut index = Index::new(INDEX_BLOCKS);
    // Several events after one another, as long as they can be read.
    while let Ok(event) = rmp_serde::decode::from_read::<_, WorkerEvent>(&mut payload) {
        let slot = Slot(event.dp_rank % WORKERS);
        if let WorkerNews::Kv(batch) = event.news {
            for event in &batch.events {
                index.apply(slot, Tier::Device, event);
            }
        }
        let held: u64 = (0..WORKERS).map(|slot| index.blocks_of(Slot(slot))).sum();
        assert_eq!(held, index.blocks());
        assert!(index.blocks() <= INDEX_BLOCKS);
        let told = index.snapshot(slot);
        let told = told.iter().map(|it| match &it.event {
            KvEvent::Stored { blocks, .. } => blocks.len() as u64,
            KvEvent::Removed { .. } | KvEvent::Cleared => 0,
        });
        assert_eq!(told.sum::<u64>(), index.blocks_of(slot));
    }
}

/// The body of a request, parsed and prepared for an engine. What is wrong with it is the client's
/// mistake, never this service's.
pub fn bodies(bytes: &[u8]) {
    let Some((&kind, body)) = bytes.split_first() else {
        return;
    };
    let prepared = RUNTIME.block_on(prepare(kind % 3, body));
    if let Err(error) = prepared {
        assert_eq!(error.code.blame(), Blame::Client, "{error}");
    }
}

static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.build().expect("a runtime without a driver")
});

static MODEL: LazyLock<Arc<ServedModel>> = LazyLock::new(|| {
    let model = echo_model("m", EchoOptions::default());
    Arc::new(model.expect("the echo model needs no files"))
});

static ENVIRONMENT: LazyLock<Environment> = LazyLock::new(|| Environment {
    compute: Arc::new(Inline),
    ..Environment::system()
});

async fn prepare(kind: u8, body: &[u8]) -> Result<(), RequestError> {
    let (model, limits) = (Arc::clone(&MODEL), PreprocessLimits::default());
    match kind {
        0 => {
            let request: ChatRequest = parse(body)?;
            prepare_chat(request, model, limits, &ENVIRONMENT).await?;
        }
        1 => {
            let request: CompletionRequest = parse(body)?;
            prepare_completion(request, model, limits, &ENVIRONMENT).await?;
        }
        _ => {
            let request: EmbeddingRequest = parse(body)?;
            prepare_embedding(request, model, limits, &ENVIRONMENT).await?;
        }
    }
    Ok(())
}
