//! Events that the server keeps, in a JetStream stream: for subscribers who missed more than a
//! publisher remembers, and who would get a snapshot in its place.
//!
//! What is published goes to the stream by itself, because the stream listens to the subjects of
//! events. It is spoken to in the JSON of its API, of which two calls are needed. Nothing depends
//! on it: a stream that is not there, or that has forgotten, is made up for by the publisher.

use crate::events::PREFIX;
use crate::link::Link;
use bytes::Bytes;
use dynamo_runtime::Tasks;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The stream's name.
pub const STREAM: &str = "DYNAMO_EVENTS";

/// What the stream keeps: some minutes of a fleet, on the server's disk.
const MAX_STREAM_BYTES: u64 = 256 * 1024 * 1024;

/// For how long it keeps it. Who is away for longer is better served with a snapshot.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Messages that it keeps of one publisher: as many as one replay reads.
const MAX_MESSAGES: usize = 1024;

/// Bytes that one replay reads.
const MAX_REPLAY_BYTES: usize = 16 * 1024 * 1024;

/// How long a call to the stream may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before the stream is asked for again.
const RETRY: Duration = Duration::from_secs(5);

/// What is kept of one publisher's events.
#[derive(Debug)]
pub(crate) struct Kept {
    link: Link,
    subject: String,
    /// The stream's number of the message to begin with.
    next: u64,
}

/// Makes the stream, and makes it again after the server was replaced by one without it.
pub(crate) fn keep_stream(link: &Link, tasks: &Tasks) {
    let link = link.clone();
    tasks.spawn_until_cancelled("nats event stream", async move {
        let mut connected = link.watch_connected();
        loop {
            connected.mark_unchanged();
            while let Err(reason) = create(&link).await {
                tracing::warn!(
                    server = %link.servers(), error = %reason,
                    "the nats server keeps no events, trying on; start it with -js, or leave \
                     --nats-jetstream out"
                );
                sleep(RETRY).await;
            }
            if connected.changed().await.is_err() {
                return;
            }
        }
    });
}

async fn create(link: &Link) -> Result<(), String> {
    let stream = json!({
        "name": STREAM,
        "subjects": [format!("{PREFIX}.>")],
        "retention": "limits",
        "discard": "old",
        "storage": "file",
        "max_bytes": MAX_STREAM_BYTES,
        "max_age": u64::try_from(MAX_AGE.as_nanos()).unwrap_or(u64::MAX),
        "max_msgs_per_subject": MAX_MESSAGES,
        "num_replicas": 1,
        "allow_direct": true,
    });
    call(link, &format!("STREAM.CREATE.{STREAM}"), &stream)
        .await
        .map(drop)
}

/// Calls the API; an error that it answers is an error here.
async fn call(link: &Link, what: &str, body: &Value) -> Result<Value, String> {
    let asked = link
        .client()
        .request(format!("$JS.API.{what}"), body.to_string().into());
    let answer = timeout(CALL_TIMEOUT, asked)
        .await
        .map_err(|_| "no answer".to_owned())?
        .map_err(|error| error.to_string())?;
    let answer: Value =
        serde_json::from_slice(&answer.payload).map_err(|error| error.to_string())?;
    match &answer["error"]["description"] {
        Value::String(reason) => Err(reason.clone()),
        _ => Ok(answer),
    }
}

impl Kept {
    pub(crate) fn new(link: Link, subject: String) -> Self {
        Self {
            link,
            subject,
            next: 1,
        }
    }

    /// What is kept and was not read before, the oldest first.
    pub(crate) async fn replay(&mut self) -> Vec<Bytes> {
        let mut messages = Vec::new();
        let mut bytes = 0;
        while messages.len() < MAX_MESSAGES && bytes < MAX_REPLAY_BYTES {
            let Some((number, message)) = self.get().await else {
                break;
            };
            self.next = number + 1;
            bytes += message.len();
            messages.push(message);
        }
        messages
    }

    /// The next message of the subject; the server gives it as it came, with its number beside.
    async fn get(&self) -> Option<(u64, Bytes)> {
        let wanted = json!({ "seq": self.next, "next_by_subj": self.subject });
        let subject = format!("$JS.API.DIRECT.GET.{STREAM}");
        let asked = self
            .link
            .client()
            .request(subject, wanted.to_string().into());
        let answer = timeout(CALL_TIMEOUT, asked).await.ok()?.ok()?;
        let headers = answer.headers.as_ref()?;
        let number = headers.get("Nats-Sequence")?.as_str().parse().ok()?;
        Some((number, answer.payload))
    }
}
