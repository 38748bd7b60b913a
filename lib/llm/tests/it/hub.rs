//! Fetching models from a hub on this machine: two real HTTP servers, one for the API and small
//! files, one as the storage that large files are redirected to.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use dynamo_config::Secret;
use dynamo_llm::hub::{Hub, HubError, HubOptions, Wanted};
use dynamo_runtime::Tasks;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret_of_the_test";
/// Above this a file is redirected to the storage.
const LARGE: usize = 1_000;

#[derive(Default)]
struct Fixture {
    files: Mutex<BTreeMap<&'static str, Vec<u8>>>,
    /// What was asked for, with the token that came along: `GET hub /path`.
    seen: Mutex<Vec<(String, Option<String>)>>,
    /// Large files break off in the middle this many times.
    cuts: Mutex<usize>,
    /// Large files arrive with a changed byte.
    corrupt: Mutex<bool>,
    storage: Mutex<Option<SocketAddr>>,
}

struct Place {
    fixture: Arc<Fixture>,
    endpoint: String,
    tasks: Tasks,
    home: tempfile::TempDir,
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

fn note(fixture: &Fixture, what: String, headers: &HeaderMap) {
    let token = headers.get(header::AUTHORIZATION);
    let token = token.map(|value| value.to_str().unwrap().to_owned());
    fixture.seen.lock().push((what, token));
}

async fn listing(State(fixture): State<Arc<Fixture>>, headers: HeaderMap) -> Response {
    note(&fixture, "GET hub listing".to_owned(), &headers);
    let files: Vec<_> = fixture.files.lock().keys().copied().collect();
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
    Path(file): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    note(&fixture, format!("{method} hub {file}"), &headers);
    let Some(content) = fixture.files.lock().get(file.as_str()).cloned() else {
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
        .header(
            "x-linked-etag",
            format!("\"{}\"", hex(digest(&SHA256, &content).as_ref())),
        )
        .header("x-linked-size", content.len())
        .body(Body::empty())
        .unwrap()
}

async fn stored(
    State(fixture): State<Arc<Fixture>>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Response {
    let range = headers
        .get(header::RANGE)
        .map(|range| range.to_str().unwrap().to_owned());
    note(
        &fixture,
        format!("GET storage {file} {}", range.as_deref().unwrap_or("all")),
        &headers,
    );
    let mut content = fixture.files.lock()[file.as_str()].clone();
    if *fixture.corrupt.lock() {
        content[10] ^= 1;
    }
    let from = range.map_or(0, |range| {
        range
            .trim_start_matches("bytes=")
            .trim_end_matches('-')
            .parse::<usize>()
            .unwrap()
    });
    let total = content.len();
    let rest = Bytes::from(content).slice(from..);
    let whole = rest.len();
    let mut cuts = fixture.cuts.lock();
    let sent = if *cuts > 0 && file == "model.safetensors" {
        *cuts -= 1;
        rest.slice(..whole / 2)
    } else {
        rest
    };
    // A body shorter than its announced length ends with the connection. What comes before the
    // pause is on its way by then.
    let first = stream::iter([Ok::<_, std::io::Error>(sent)]);
    let pause = stream::once(async {
        tokio::task::yield_now().await;
        Ok(Bytes::new())
    });
    let body = Body::from_stream(first.chain(pause));
    let status = if from > 0 {
        StatusCode::PARTIAL_CONTENT
    } else {
        StatusCode::OK
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, whole)
        .header(
            header::CONTENT_RANGE,
            format!("bytes {from}-{}/{total}", total - 1),
        )
        .body(body)
        .unwrap()
}

impl Place {
    async fn new() -> Self {
        let fixture = Arc::new(Fixture::default());
        let tasks = Tasks::root();
        let hub = Router::new()
            .route("/api/models/org/name/revision/main", get(listing))
            .route(
                "/org/name/resolve/{commit}/{*file}",
                get(
                    |state: State<Arc<Fixture>>,
                     Path((_, file)): Path<(String, String)>,
                     method,
                     headers| { resolve(state, Path(file), method, headers) },
                ),
            )
            .with_state(Arc::clone(&fixture));
        let storage = Router::new()
            .route("/{*file}", get(stored))
            .with_state(Arc::clone(&fixture));
        let endpoint = format!("http://{}", serve(&tasks, hub).await);
        *fixture.storage.lock() = Some(serve(&tasks, storage).await);
        let mut files = fixture.files.lock();
        files.insert("config.json", br#"{"model_type": "test"}"#.to_vec());
        files.insert("tokenizer.json", vec![b't'; 5_000]);
        files.insert(
            "model.safetensors",
            (0..200_000_u32).map(|n| n as u8).collect(),
        );
        files.insert("notes.txt", b"nobody wants these".to_vec());
        drop(files);
        Self {
            fixture,
            endpoint,
            tasks,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn hub(&self, change: impl FnOnce(&mut HubOptions)) -> Hub {
        let mut options = HubOptions {
            hf_endpoint: self.endpoint.clone(),
            hf_token: Some(Secret::new(TOKEN.to_owned())),
            ..HubOptions::default()
        };
        change(&mut options);
        Hub::new(&options, Some(self.home.path()), &self.tasks).unwrap()
    }

    fn requests(&self) -> Vec<String> {
        let seen = self.fixture.seen.lock();
        seen.iter().map(|(what, _)| what.clone()).collect()
    }
}

async fn serve(tasks: &Tasks, router: Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn_until_cancelled("test server", async move {
        axum::serve(listener, router).await.unwrap();
    });
    address
}

#[tokio::test]
async fn a_model_is_fetched_whole_and_found_again_without_the_network() {
    let place = Place::new().await;
    let model = place
        .hub(|_| {})
        .resolve("org/name", Wanted::Everything, &|_| {})
        .await
        .unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        let fetched = std::fs::read(model.path.join(file)).unwrap();
        assert_eq!(fetched, place.fixture.files.lock()[file], "{file}");
    }
    assert!(!model.path.join("notes.txt").exists());
    assert!(
        model
            .path
            .ends_with(format!("hub/models--org--name/snapshots/{COMMIT}"))
    );

    let offline = place.hub(|options| {
        options.hf_hub_offline = true;
        options.hf_endpoint = "http://127.0.0.1:1".to_owned();
    });
    let again = offline
        .resolve("org/name", Wanted::Everything, &|_| {})
        .await
        .unwrap();
    assert_eq!(again.path, model.path);
    place.tasks.stop().await;
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_never_to_the_storage() {
    let place = Place::new().await;
    place
        .hub(|_| {})
        .resolve("org/name", Wanted::Everything, &|_| {})
        .await
        .unwrap();
    for (what, token) in place.fixture.seen.lock().iter() {
        let expected = what.contains(" hub ").then(|| format!("Bearer {TOKEN}"));
        assert_eq!(*token, expected, "{what}");
    }
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let place = Place::new().await;
    *place.fixture.cuts.lock() = 1;
    let model = place
        .hub(|_| {})
        .resolve("org/name", Wanted::Everything, &|_| {})
        .await
        .unwrap();
    let requests = place.requests();
    let resumed = requests
        .iter()
        .any(|it| it.contains("storage") && it.contains("bytes="));
    assert!(resumed, "{requests:#?}");
    let fetched = std::fs::read(model.path.join("model.safetensors")).unwrap();
    assert_eq!(fetched, place.fixture.files.lock()["model.safetensors"]);
    place.tasks.stop().await;
}

#[tokio::test]
async fn wrong_content_is_an_error_and_no_file() {
    let place = Place::new().await;
    *place.fixture.corrupt.lock() = true;
    let error = place
        .hub(|_| {})
        .resolve("org/name", Wanted::Everything, &|_| {})
        .await
        .unwrap_err();
    assert!(
        error.to_string().to_lowercase().contains("checksum"),
        "{error}"
    );
    let snapshot = place
        .home
        .path()
        .join(".cache/huggingface/hub/models--org--name/snapshots");
    assert!(!snapshot.join(COMMIT).join("model.safetensors").exists());
    place.tasks.stop().await;
}

#[tokio::test]
async fn without_a_network_the_error_says_where_to_put_the_files() {
    let place = Place::new().await;
    let hub = place.hub(|options| options.hf_endpoint = "http://127.0.0.1:1".to_owned());
    let error = hub
        .resolve("org/name", Wanted::Everything, &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("models--org--name"), "{error}");
    assert!(!error.to_string().contains(TOKEN));
    place.tasks.stop().await;
}

#[tokio::test]
async fn a_model_that_does_not_exist_is_named_with_the_revision() {
    let place = Place::new().await;
    let error = place
        .hub(|_| {})
        .resolve("org/other", Wanted::Everything, &|_| {})
        .await
        .unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
    assert!(error.to_string().contains("org/other"));
    place.tasks.stop().await;
}
