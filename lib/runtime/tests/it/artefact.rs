//! Artefacts from process to process, with real files and sockets.

use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::artefact::{
    ARTEFACT_ENDPOINT, ArtefactError, ArtefactFetcher, ArtefactSource, ArtefactStore,
    MAX_ARTEFACT_BYTES,
};
use dynamo_runtime::discovery::{ArtefactRef, EndpointId, InstanceId};
use dynamo_runtime::environment::{ComputeError, ComputePool, RandomSource};
use dynamo_runtime::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, Registration, RequestHeader, RequestPlane,
    TcpPlane, TcpPlaneOptions, TrafficClass,
};
use dynamo_runtime::{Environment, Tasks};
use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// More than two chunks, and not a whole number of them.
const LARGE_BYTES: usize = 600_001;

/// A process; its tasks end with it.
struct Process {
    plane: TcpPlane,
    tasks: Tasks,
    registrations: Vec<Registration>,
}

/// A handler that notes where each call starts.
#[derive(Debug)]
struct Noting {
    inner: ArtefactStore,
    starts: Starts,
}

type Starts = Arc<Mutex<Vec<u64>>>;

/// A worker that gives the first part of a file, and then its process dies.
#[derive(Debug)]
struct Dying {
    part: Bytes,
    tasks: Tasks,
}

/// A worker that gives a chunk of something else and then breaks down.
#[derive(Debug)]
struct Poisoned;

/// A worker that gives a chunk, at a moment at which the other's compute pool becomes full.
#[derive(Debug)]
struct Filling {
    compute: Arc<dyn ComputePool>,
    places: Mutex<Option<Places>>,
}

/// Places in a compute pool, without anything that runs.
#[expect(dead_code, reason = "they are there to be held")]
struct Places(Vec<BoxFuture<'static, Result<(), ComputeError>>>);

/// Draws that leave an order as it is.
#[derive(Debug)]
struct InOrder;

impl RandomSource for InOrder {
    fn next_u64(&self) -> u64 {
        0
    }
}

impl Places {
    /// All that are left.
    fn take(compute: &dyn ComputePool) -> Self {
        // More than the pool has: it has some hundreds for each thread.
        let many = 1_000 * available_parallelism().unwrap().get();
        Self((0..many).map(|_| compute.run(Box::new(|| ()))).collect())
    }
}

impl std::fmt::Debug for Places {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Places")
    }
}

impl Handler for Filling {
    fn handle(&self, _: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        *self.places.lock() = Some(Places::take(&*self.compute));
        let chunk = Item {
            positions: 1000,
            payload: Bytes::from(content(1000)),
        };
        let items: ItemStream = Box::pin(stream::iter([Ok(chunk)]));
        Box::pin(async move { Ok(items) })
    }
}

impl Handler for Noting {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        assert_eq!(request.header.class, TrafficClass::Bulk);
        self.starts.lock().push(request.header.start_position);
        self.inner.handle(request)
    }
}

impl Handler for Dying {
    fn handle(&self, _: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let part = Item {
            positions: self.part.len() as u32,
            payload: self.part.clone(),
        };
        let tasks = self.tasks.clone();
        let death = stream::once(async move {
            tasks.cancel();
            std::future::pending().await
        });
        let items: ItemStream = Box::pin(stream::iter([Ok(part)]).chain(death));
        Box::pin(async move { Ok(items) })
    }
}

impl Handler for Poisoned {
    fn handle(&self, _: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let chunk = Item {
            positions: 1000,
            payload: Bytes::from(vec![0xbd; 1000]),
        };
        let failure = RequestError::new(ErrorCode::EngineFailed, "on purpose");
        let items: ItemStream = Box::pin(stream::iter([Ok(chunk), Err(failure)]));
        Box::pin(async move { Ok(items) })
    }
}

fn endpoint() -> EndpointId {
    EndpointId::new("ns", "worker", ARTEFACT_ENDPOINT).unwrap()
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

fn reference(content: &[u8]) -> ArtefactRef {
    ArtefactRef {
        name: "tokenizer.json".to_owned(),
        size: content.len() as u64,
        blake3: blake3::hash(content).to_hex().to_string(),
    }
}

impl Process {
    async fn start() -> Self {
        let tasks = Tasks::root();
        let options = TcpPlaneOptions::default();
        let plane = TcpPlane::bind(Environment::system(), tasks.child(), &options).await;
        Self {
            plane: plane.unwrap(),
            tasks,
            registrations: Vec::new(),
        }
    }

    async fn serving(handler: impl Handler) -> Self {
        let mut process = Self::start().await;
        process.serve(handler);
        process
    }

    fn serve(&mut self, handler: impl Handler) {
        let handlers = self.plane.handlers();
        let registration = handlers.register(endpoint(), Arc::new(handler)).unwrap();
        self.registrations.push(registration);
    }

    /// A process that offers a file of this content and notes where calls for it start.
    async fn noting(folder: &Path, artefact: &ArtefactRef, content: &[u8]) -> (Self, Starts) {
        let path = folder.join("noted");
        fs::write(&path, content).unwrap();
        let inner = ArtefactStore::new(Environment::system());
        inner.insert(artefact, path);
        let starts = Starts::default();
        let noting = Noting {
            inner,
            starts: Arc::clone(&starts),
        };
        (Self::serving(noting).await, starts)
    }

    /// A process that offers a file of this content.
    async fn offering(folder: &Path, artefact: &ArtefactRef, content: &[u8]) -> Self {
        let path = folder.join("tokenizer.json");
        fs::write(&path, content).unwrap();
        let store = ArtefactStore::new(Environment::system());
        store.insert(artefact, path);
        Self::serving(store).await
    }

    fn source(&self) -> ArtefactSource {
        ArtefactSource {
            endpoint: endpoint(),
            instance: InstanceId::from_bits(1),
            address: self.plane.address().to_owned(),
        }
    }

    fn fetcher(&self, folder: &Path) -> ArtefactFetcher {
        self.fetcher_in(Environment::system(), folder)
    }

    /// A fetcher that asks the sources in the order in which they are given.
    fn fetcher_in_order(&self, folder: &Path) -> ArtefactFetcher {
        self.fetcher_in(in_order(), folder)
    }

    fn fetcher_in(&self, environment: Environment, folder: &Path) -> ArtefactFetcher {
        let plane = Arc::new(self.plane.clone());
        ArtefactFetcher::new(environment, plane, folder.to_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn in_order() -> Environment {
    Environment {
        random: Arc::new(InOrder),
        ..Environment::system()
    }
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

#[tokio::test]
async fn a_file_is_fetched_once_and_then_found_in_the_cache() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    for length in [0, 1, LARGE_BYTES] {
        let content = content(length);
        let artefact = reference(&content);
        let worker = Process::offering(origin.path(), &artefact, &content).await;
        let frontend = Process::start().await;
        // The folder is made when it is needed.
        let folder = cache.path().join("artefacts");
        let fetcher = frontend.fetcher(&folder);
        let path = fetcher.fetch(&artefact, &[worker.source()]).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), content);
        assert_eq!(path, folder.join(&artefact.blake3));
        worker.tasks.stop().await;
        assert_eq!(fetcher.fetch(&artefact, &[]).await.unwrap(), path);
        // A cached file that was damaged is not given out, and is fetched again.
        fs::write(&path, b"damaged").unwrap();
        let lost = fetcher.fetch(&artefact, &[]).await;
        assert!(matches!(lost, Err(ArtefactError::NoSource(_))), "{lost:?}");
        fs::write(&path, b"damaged").unwrap();
        let worker = Process::offering(origin.path(), &artefact, &content).await;
        let again = fetcher.fetch(&artefact, &[worker.source()]).await.unwrap();
        assert_eq!(fs::read(again).unwrap(), content);
    }
}

#[tokio::test]
async fn content_that_differs_is_an_error_and_never_visible() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let good = content(LARGE_BYTES);
    let artefact = reference(&good);
    let mut flipped = good.clone();
    flipped[LARGE_BYTES / 2] ^= 1;
    let longer = [&good[..], b"more"].concat();
    for bad in [&flipped[..], &longer, &good[..LARGE_BYTES - 1]] {
        let worker = Process::offering(origin.path(), &artefact, bad).await;
        let frontend = Process::start().await;
        let fetched = frontend
            .fetcher(cache.path())
            .fetch(&artefact, &[worker.source()])
            .await;
        assert!(
            matches!(fetched, Err(ArtefactError::Mismatch { .. })),
            "{fetched:?}"
        );
        assert!(is_empty(cache.path()));
    }
}

#[tokio::test]
async fn the_next_source_is_asked_when_one_fails() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (bad_origin, content) = (TempDir::new().unwrap(), content(LARGE_BYTES));
    let artefact = reference(&content);
    let stranger = Process::start().await;
    let gone = Process::start().await;
    gone.tasks.stop().await;
    let damaged = Process::offering(bad_origin.path(), &artefact, b"something else").await;
    let worker = Process::offering(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let sources = [&stranger, &gone, &damaged, &worker].map(Process::source);
    let fetcher = frontend.fetcher_in_order(cache.path());
    let path = fetcher.fetch(&artefact, &sources).await.unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[tokio::test]
async fn what_a_broken_source_gave_does_not_spoil_the_next_one() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = content(LARGE_BYTES);
    let artefact = reference(&content);
    let poisoned = Process::serving(Poisoned).await;
    let worker = Process::offering(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let sources = [poisoned.source(), worker.source()];
    let path = frontend
        .fetcher_in_order(cache.path())
        .fetch(&artefact, &sources)
        .await
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
}

#[tokio::test]
async fn the_next_source_goes_on_where_one_that_died_stopped() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = content(LARGE_BYTES);
    let artefact = reference(&content);
    let part = Bytes::copy_from_slice(&content[..LARGE_BYTES / 2]);
    let mut dying = Process::start().await;
    let tasks = dying.tasks.clone();
    dying.serve(Dying { part, tasks });
    let (worker, starts) = Process::noting(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let sources = [dying.source(), worker.source()];
    let path = frontend
        .fetcher_in_order(cache.path())
        .fetch(&artefact, &sources)
        .await
        .unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(*starts.lock(), [LARGE_BYTES as u64 / 2]);
}

#[tokio::test]
async fn an_artefact_that_the_source_does_not_have_is_a_typed_error() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let worker = Process::offering(origin.path(), &reference(b"one"), b"one").await;
    let frontend = Process::start().await;
    let fetched = frontend
        .fetcher(cache.path())
        .fetch(&reference(b"two"), &[worker.source()])
        .await;
    let Err(ArtefactError::Source { source, .. }) = fetched else {
        panic!("{fetched:?}")
    };
    assert_eq!(source.code, ErrorCode::InvalidRequest);
    assert!(is_empty(cache.path()));
}

#[tokio::test]
async fn fetches_of_the_same_artefact_share_one_download() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = content(LARGE_BYTES);
    let artefact = reference(&content);
    let (worker, starts) = Process::noting(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let fetcher = frontend.fetcher(cache.path());
    let sources = [worker.source()];
    let fetched = join_all((0..8).map(|_| fetcher.fetch(&artefact, &sources))).await;
    assert!(fetched.iter().all(Result::is_ok), "{fetched:?}");
    assert_eq!(*starts.lock(), [0]);
}

#[tokio::test]
async fn only_hashes_and_sensible_sizes_are_asked_for() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let good = reference(b"x");
    let (worker, starts) = Process::noting(origin.path(), &good, b"x").await;
    let frontend = Process::start().await;
    let fetcher = frontend.fetcher(cache.path());
    let sources = [worker.source()];
    let upper = good.blake3.to_uppercase();
    for name in [
        "",
        "../../etc/passwd",
        "/etc/passwd",
        &good.blake3[1..],
        &upper,
    ] {
        let artefact = ArtefactRef {
            blake3: name.to_owned(),
            ..good.clone()
        };
        let fetched = fetcher.fetch(&artefact, &sources).await;
        assert!(matches!(fetched, Err(ArtefactError::NoHash(_))), "{name}");
    }
    let huge = ArtefactRef {
        size: MAX_ARTEFACT_BYTES + 1,
        ..good
    };
    let fetched = fetcher.fetch(&huge, &sources).await;
    assert!(matches!(fetched, Err(ArtefactError::TooLarge { .. })));
    assert!(starts.lock().is_empty());
    assert!(is_empty(cache.path()));
}

#[tokio::test]
async fn a_worker_gives_nothing_but_what_it_offers() {
    let origin = TempDir::new().unwrap();
    fs::write(origin.path().join("secret"), b"secret").unwrap();
    let artefact = reference(b"public");
    let worker = Process::offering(origin.path(), &artefact, b"public").await;
    let frontend = Process::start().await;
    let secret = origin.path().join("secret");
    for asked in ["secret", "../secret", secret.to_str().unwrap(), "", "\u{0}"] {
        let header = RequestHeader::new("r", endpoint(), InstanceId::from_bits(1));
        let body = Bytes::from(asked.to_owned());
        let address = worker.plane.address();
        let refused = frontend
            .plane
            .call(address, header, body)
            .await
            .unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidRequest);
    }
}

#[tokio::test]
async fn many_that_fetch_do_not_all_ask_the_same_source() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = content(1);
    let artefact = reference(&content);
    let (one, one_starts) = Process::noting(origin.path(), &artefact, &content).await;
    let (two, two_starts) = Process::noting(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let sources = [one.source(), two.source()];
    // That all ask the same one: once in 2^63 runs.
    for number in 0..64 {
        let folder = cache.path().join(number.to_string());
        let fetched = frontend.fetcher(&folder).fetch(&artefact, &sources).await;
        assert_eq!(fs::read(fetched.unwrap()).unwrap(), content);
    }
    let asked = (one_starts.lock().len(), two_starts.lock().len());
    assert!(asked.0 > 0 && asked.1 > 0, "{asked:?}");
    assert_eq!(asked.0 + asked.1, 64);
}

#[tokio::test]
async fn a_full_compute_pool_is_told_from_a_folder_that_cannot_be_written() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = content(LARGE_BYTES);
    let artefact = reference(&content);
    let (worker, starts) = Process::noting(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let environment = in_order();
    let compute = Arc::clone(&environment.compute);

    let places = Places::take(&*compute);
    let fetcher = frontend.fetcher_in(environment.clone(), cache.path());
    let refused = fetcher.fetch(&artefact, &[worker.source()]).await;
    assert!(
        matches!(refused, Err(ArtefactError::Busy { .. })),
        "{refused:?}"
    );
    drop(places);

    // In the middle of a download: it is nobody's fault who could be asked instead.
    let filling = Process::serving(Filling {
        compute,
        places: Mutex::default(),
    })
    .await;
    let sources = [filling.source(), worker.source()];
    let refused = fetcher.fetch(&artefact, &sources).await;
    assert!(
        matches!(refused, Err(ArtefactError::Busy { .. })),
        "{refused:?}"
    );
    assert!(starts.lock().is_empty());
    drop(filling);

    let file = cache.path().join("a file and no folder");
    fs::write(&file, b"").unwrap();
    let fetcher = frontend.fetcher(&file);
    let refused = fetcher.fetch(&artefact, &[worker.source()]).await;
    assert!(
        matches!(refused, Err(ArtefactError::Cache { .. })),
        "{refused:?}"
    );
    assert!(starts.lock().is_empty());
}

#[tokio::test]
async fn what_killed_processes_left_is_gone_after_the_next_download() {
    let (origin, cache) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let content = content(LARGE_BYTES);
    let artefact = reference(&content);
    let worker = Process::offering(origin.path(), &artefact, &content).await;
    let frontend = Process::start().await;
    let old = format!(".{}.aaaaaaaa.part", artefact.blake3);
    let fresh = format!(".{}.bbbbbbbb.part", artefact.blake3);
    let foreign = "notes.part".to_owned();
    for (name, age) in [(&old, 86_400), (&fresh, 0), (&foreign, 86_400)] {
        let file = fs::File::create(cache.path().join(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age);
        file.set_modified(then).unwrap();
    }
    let fetcher = frontend.fetcher(cache.path());
    fetcher.fetch(&artefact, &[worker.source()]).await.unwrap();
    let entries = fs::read_dir(cache.path()).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let mut expected = [fresh, artefact.blake3, foreign];
    expected.sort_unstable();
    assert_eq!(names, expected);
}
