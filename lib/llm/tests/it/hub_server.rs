//! A hub on this machine: two real HTTP servers, one for the API and small files, one as the
//! storage that large files are redirected to, with the faults that a test asks for.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dynamo_config::Secret;
use dynamo_llm::hub::{Hub, HubError, HubLimits, HubOptions, ResolvedModel, Wanted};
use dynamo_runtime::Tasks;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const TOKEN: &str = "hf_secret_of_the_test";
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Above this a file is redirected to the storage.
const LARGE: usize = 1_000;

/// What goes wrong with one answer of the storage that has the weights in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The connection ends after half of the bytes.
    Cut,
    /// After half of the bytes nothing comes any more.
    Stall,
    /// After half of the bytes they come one by one, and there is no end to it.
    Trickle,
    /// After half of the bytes it waits for [`Place::open_gate`].
    Gate,
    /// A byte is another one.
    Corrupt,
    /// The whole file comes, whatever part was asked for.
    NoRanges,
}

#[derive(Debug, Default)]
struct Fixture {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    /// What was asked for, with the token that came along: `GET hub /path`.
    seen: watch::Sender<Vec<(String, Option<String>)>>,
    /// What goes wrong, answer by answer; at the end of it nothing does.
    faults: Mutex<VecDeque<Fault>>,
    /// What the hub answers instead, to requests that begin so, and how often.
    refusals: Mutex<Option<(&'static str, StatusCode, usize)>>,
    gate: watch::Sender<bool>,
    storage: Mutex<Option<SocketAddr>>,
}

/// The servers, and a home folder for a cache.
pub(crate) struct Place {
    fixture: Arc<Fixture>,
    pub(crate) endpoint: String,
    pub(crate) tasks: Tasks,
    pub(crate) home: tempfile::TempDir,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn git_blob(content: &[u8]) -> String {
    let mut blob = format!("blob {}\0", content.len()).into_bytes();
    blob.extend_from_slice(content);
    hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, &blob).as_ref())
}

fn sha256(content: &[u8]) -> String {
    hex(digest(&SHA256, content).as_ref())
}

// === impl Fixture ===

impl Fixture {
    fn note(&self, what: String, headers: &HeaderMap) {
        let token = headers.get(header::AUTHORIZATION);
        let token = token.map(|value| value.to_str().unwrap().to_owned());
        self.seen.send_modify(|seen| seen.push((what, token)));
    }

    /// The status that is answered instead of the truth, if any.
    fn refusal(&self, what: &str) -> Option<StatusCode> {
        let mut refusals = self.refusals.lock();
        let (begin, status, left) = refusals.as_mut()?;
        if *left == 0 || !what.starts_with(*begin) {
            return None;
        }
        *left -= 1;
        Some(*status)
    }

    /// The bytes, as the fault has them.
    fn body(&self, sent: Bytes, fault: Option<Fault>) -> Body {
        let half = sent.slice(..sent.len() / 2);
        let rest = sent.slice(half.len()..);
        let first = stream::iter([Ok::<_, std::io::Error>(half)]);
        match fault {
            // A body shorter than its announced length ends with the connection. What comes
            // before the pause is on its way by then.
            Some(Fault::Cut) => Body::from_stream(first.chain(stream::once(async {
                tokio::task::yield_now().await;
                Ok(Bytes::new())
            }))),
            Some(Fault::Stall) => Body::from_stream(first.chain(stream::pending())),
            Some(Fault::Trickle) => {
                let drops = stream::repeat(rest.slice(..1)).then(|drop| async {
                    // Is what is slow here: many of them fit into the shortest patience.
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(drop)
                });
                Body::from_stream(first.chain(drops))
            }
            Some(Fault::Gate) => {
                let mut gate = self.gate.subscribe();
                Body::from_stream(first.chain(stream::once(async move {
                    gate.wait_for(|open| *open).await.unwrap();
                    Ok(rest)
                })))
            }
            Some(Fault::Corrupt | Fault::NoRanges) | None => Body::from(sent),
        }
    }
}

async fn listing(State(fixture): State<Arc<Fixture>>, headers: HeaderMap) -> Response {
    let what = "GET hub listing";
    fixture.note(what.to_owned(), &headers);
    if let Some(status) = fixture.refusal(what) {
        return status.into_response();
    }
    let files: Vec<_> = fixture.files.lock().keys().cloned().collect();
    let siblings: Vec<_> = files
        .iter()
        .map(|file| serde_json::json!({"rfilename": file}))
        .collect();
    serde_json::json!({"sha": COMMIT, "siblings": siblings})
        .to_string()
        .into_response()
}

async fn resolve(
    State(fixture): State<Arc<Fixture>>,
    Path((_, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let what = format!("{method} hub {file}");
    fixture.note(what.clone(), &headers);
    if let Some(status) = fixture.refusal(&what) {
        return status.into_response();
    }
    let Some(content) = fixture.files.lock().get(&file).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    if content.len() < LARGE {
        let etag = format!("\"{}\"", git_blob(&content));
        return ([(header::ETAG, etag)], content).into_response();
    }
    let storage = fixture.storage.lock().unwrap();
    Response::builder()
        .status(StatusCode::FOUND)
        .header(header::LOCATION, format!("http://{storage}/{file}"))
        .header("x-linked-etag", format!("\"{}\"", sha256(&content)))
        .header("x-linked-size", content.len())
        .body(Body::empty())
        .unwrap()
}

async fn stored(
    State(fixture): State<Arc<Fixture>>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Response {
    let range = headers.get(header::RANGE);
    let range = range.map_or("all", |range| range.to_str().unwrap());
    fixture.note(format!("GET storage {file} {range}"), &headers);
    let fault = match file == WEIGHTS {
        true => fixture.faults.lock().pop_front(),
        false => None,
    };
    let from = match range.strip_prefix("bytes=") {
        Some(range) if fault != Some(Fault::NoRanges) => {
            range.trim_end_matches('-').parse::<usize>().unwrap()
        }
        Some(_) | None => 0,
    };
    let mut content = fixture.files.lock()[&file].clone();
    if fault == Some(Fault::Corrupt) {
        content[10] ^= 1;
    }
    let total = content.len();
    let sent = Bytes::from(content).slice(from..);
    let (status, length) = match from {
        0 => (StatusCode::OK, total),
        _ => (StatusCode::PARTIAL_CONTENT, sent.len()),
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, length)
        .header(
            header::CONTENT_RANGE,
            format!("bytes {from}-{}/{total}", total - 1),
        )
        .body(fixture.body(sent, fault))
        .unwrap()
}

async fn serve(tasks: &Tasks, router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn_until_cancelled("test server", async move {
        axum::serve(listener, router).await.unwrap();
    });
    address
}

// === impl Place ===

impl Place {
    pub(crate) async fn new() -> Self {
        let fixture = Arc::new(Fixture::default());
        let tasks = Tasks::root();
        let hub = Router::new()
            .route("/api/models/org/name/revision/main", get(listing))
            .route("/org/name/resolve/{commit}/{*file}", get(resolve))
            .with_state(Arc::clone(&fixture));
        let storage = Router::new()
            .route("/{*file}", get(stored))
            .with_state(Arc::clone(&fixture));
        let endpoint = format!("http://{}", serve(&tasks, hub).await);
        *fixture.storage.lock() = Some(serve(&tasks, storage).await);
        let place = Self {
            fixture,
            endpoint,
            tasks,
            home: tempfile::tempdir().unwrap(),
        };
        place.put("config.json", br#"{"model_type": "test"}"#.to_vec());
        place.put("tokenizer.json", vec![b't'; 5_000]);
        place.put_weights(200_000);
        place.put("notes.txt", b"nobody wants these".to_vec());
        place
    }

    pub(crate) fn put(&self, file: &str, content: Vec<u8>) {
        self.fixture.files.lock().insert(file.to_owned(), content);
    }

    /// Weights of this many bytes, in which no two places look alike.
    pub(crate) fn put_weights(&self, bytes: usize) {
        let numbers = 0..=(bytes / 4) as u32;
        let mut content: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
        content.truncate(bytes);
        self.put(WEIGHTS, content);
    }

    pub(crate) fn content(&self, file: &str) -> Vec<u8> {
        self.fixture.files.lock()[file].clone()
    }

    /// What goes wrong with the next answers that have the weights in them.
    pub(crate) fn faults(&self, faults: &[Fault]) {
        *self.fixture.faults.lock() = faults.iter().copied().collect();
    }

    /// Lets the hub refuse so many requests that begin so.
    pub(crate) fn refuse(&self, begin: &'static str, status: u16, times: usize) {
        let status = StatusCode::from_u16(status).unwrap();
        *self.fixture.refusals.lock() = Some((begin, status, times));
    }

    pub(crate) fn open_gate(&self) {
        self.fixture.gate.send_replace(true);
    }

    pub(crate) fn hub(&self, change: impl FnOnce(&mut HubOptions)) -> Hub {
        self.hub_with(HubLimits::default(), change)
    }

    /// A hub that does not pause between attempts.
    pub(crate) fn hasty_hub(&self, attempts: u32) -> Hub {
        let limits = HubLimits {
            attempts,
            first_pause: Duration::ZERO,
            ..HubLimits::default()
        };
        self.hub_with(limits, |_| {})
    }

    pub(crate) fn hub_with(&self, limits: HubLimits, change: impl FnOnce(&mut HubOptions)) -> Hub {
        let mut options = HubOptions {
            hf_endpoint: self.endpoint.clone(),
            hf_token: Some(Secret::new(TOKEN.to_owned())),
            ..HubOptions::default()
        };
        change(&mut options);
        Hub::with_limits(&options, Some(self.home.path()), &self.tasks, limits).unwrap()
    }

    /// What was asked for, and the token that came along.
    pub(crate) fn seen(&self) -> Vec<(String, Option<String>)> {
        self.fixture.seen.borrow().clone()
    }

    /// What was asked for that begins so.
    pub(crate) fn requests(&self, begin: &str) -> Vec<String> {
        let seen = self.seen().into_iter().map(|(what, _)| what);
        seen.filter(|what| what.starts_with(begin)).collect()
    }

    /// The parts of the weights that were asked for: `all`, or `bytes=10-`.
    pub(crate) fn parts(&self) -> Vec<String> {
        let begin = format!("GET storage {WEIGHTS} ");
        let requests = self.requests(&begin);
        requests
            .iter()
            .map(|it| it[begin.len()..].to_owned())
            .collect()
    }

    /// Waits until so many requests that begin so were seen.
    pub(crate) async fn until_seen(&self, begin: &str, times: usize) {
        let mut seen = self.fixture.seen.subscribe();
        let enough = |seen: &Vec<(String, Option<String>)>| {
            let alike = seen.iter().filter(|(what, _)| what.starts_with(begin));
            alike.count() >= times
        };
        seen.wait_for(enough).await.unwrap();
    }

    /// The repository's folder in the cache.
    pub(crate) fn repo(&self) -> PathBuf {
        let cache = self.home.path().join(".cache/huggingface/hub");
        cache.join("models--org--name")
    }

    /// The weights' file among the blobs, and the one that is not whole.
    pub(crate) fn blob(&self) -> (PathBuf, PathBuf) {
        let checksum = sha256(&self.content(WEIGHTS));
        let blobs = self.repo().join("blobs");
        let partial = blobs.join(format!("{checksum}.incomplete"));
        (blobs.join(checksum), partial)
    }

    /// The lock that is held while the weights are fetched.
    pub(crate) fn lock(&self) -> PathBuf {
        let checksum = sha256(&self.content(WEIGHTS));
        let locks = self
            .repo()
            .with_file_name(".locks")
            .join("models--org--name");
        locks.join(format!("{checksum}.lock"))
    }

    /// Puts something there as if an earlier run had left it.
    pub(crate) fn leave_partial(&self, content: &[u8]) {
        let (_, partial) = self.blob();
        std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
        std::fs::write(partial, content).unwrap();
    }

    /// The model is whole, and nothing but it is in the cache.
    pub(crate) fn assert_whole(&self, model: &ResolvedModel) {
        for file in ["config.json", "tokenizer.json", WEIGHTS] {
            let fetched = std::fs::read(model.path.join(file)).unwrap();
            assert!(fetched == self.content(file), "{file}");
        }
        let blobs = std::fs::read_dir(self.repo().join("blobs")).unwrap();
        assert_eq!(blobs.count(), 3);
    }
}

/// Fetches everything without looking at the progress.
pub(crate) async fn fetch(hub: &Hub) -> Result<ResolvedModel, HubError> {
    hub.resolve("org/name", Wanted::Everything, &|_| {}).await
}
