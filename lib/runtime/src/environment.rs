//! The seam between this process and the world: sockets, wall time, random numbers and the
//! threads that compute.
//!
//! Everything that a simulation must control comes from one [`Environment`] value that is passed
//! down; nothing below the binary reaches for the operating system by itself. Monotonic time is
//! tokio's clock (`tokio::time`), which a paused or simulated runtime controls already, and tasks
//! are spawned through [`Tasks`](crate::tasks::Tasks).
//!
//! Invariants
//! - With the same environment (and `biased` selects) the same inputs give the same run.
//! - The compute pool is bounded twice: in threads, and in jobs that wait for one.

use futures_core::future::BoxFuture;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};

/// A byte stream to a peer.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A listening socket.
pub trait Listener: Send + Sync {
    /// The address it is bound to, with the port that was really taken.
    fn local_addr(&self) -> io::Result<SocketAddr>;
    /// The next connection, and where it comes from.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>>;
}

/// Makes connections and listeners. Addresses are `host:port`; where there is a file system, `unix:path`
/// connects to a socket in it.
pub trait Network: Send + Sync + fmt::Debug {
    /// Connects to a peer.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>>;
    /// Listens; port 0 takes a free one.
    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// Whether peers are not to be blamed for being silent now: something between all of them and
    /// this process is known to be down, and may come back. The network bounds for how long.
    fn excuses_silence(&self) -> bool {
        false
    }
}

/// The time of day. Deadlines never use it.
pub trait WallClock: Send + Sync + fmt::Debug {
    /// Time since the Unix epoch.
    fn unix_time(&self) -> Duration;
}

/// Random numbers for ids, jitter and load balancing; not for cryptographic use.
pub trait RandomSource: Send + Sync + fmt::Debug {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;
}

/// A unit of blocking or heavy work.
pub type Job = Box<dyn FnOnce() + Send>;

/// Threads for work that would block the async ones: tokenizing long prompts, hashing files.
pub trait ComputePool: Send + Sync + fmt::Debug {
    /// Runs the job to its end, on another thread where there is one. Fails at once, and drops
    /// the job, when too many wait already.
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), ComputeError>>;
}

/// Why a job did not run to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ComputeError {
    /// Too many jobs wait for a thread.
    #[error("the compute pool is full")]
    Full,
    /// The job panicked, or the process is shutting down.
    #[error("the compute job did not complete")]
    Lost,
}

/// The seam itself; cheap to clone.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Sockets.
    pub network: Arc<dyn Network>,
    /// Time of day.
    pub clock: Arc<dyn WallClock>,
    /// Random numbers.
    pub random: Arc<dyn RandomSource>,
    /// Threads for heavy work.
    pub compute: Arc<dyn ComputePool>,
}

/// Jobs that may wait per compute thread. At 10 ms a job (a long prompt) a full queue is a
/// second and a half of delay: later ones are better refused than kept.
const WAITING_JOBS_PER_THREAD: usize = 128;

/// Real sockets.
#[derive(Debug)]
struct OsNetwork;

struct OsListener(tokio::net::TcpListener);

/// The system's clock.
#[derive(Debug)]
struct OsClock;

/// Random numbers by counting, each count hashed with keys that the system drew at start.
#[derive(Debug)]
struct OsRandom {
    keys: std::hash::RandomState,
    count: std::sync::atomic::AtomicU64,
}

/// Tokio's blocking threads behind two bounds.
#[derive(Debug)]
struct OsCompute {
    threads: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

// === impl Environment ===

impl Environment {
    /// The real thing: the operating system's sockets, clock, random numbers and threads.
    pub fn system() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            network: Arc::new(OsNetwork),
            clock: Arc::new(OsClock),
            random: Arc::new(OsRandom {
                keys: std::hash::RandomState::new(),
                count: std::sync::atomic::AtomicU64::new(0),
            }),
            compute: Arc::new(OsCompute {
                threads: Arc::new(Semaphore::new(threads)),
                places: Arc::new(Semaphore::new(threads * (1 + WAITING_JOBS_PER_THREAD))),
            }),
        }
    }

    /// Runs `work` on the compute pool and gives back what it returns.
    pub async fn compute<T, F>(&self, work: F) -> Result<T, ComputeError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.compute
            .run(Box::new(move || {
                // The receiver is gone when the caller was cancelled: nobody wants the result.
                drop(sender.send(work()));
            }))
            .await?;
        receiver.await.map_err(|_| ComputeError::Lost)
    }
}

// === impl Network ===

impl Network for OsNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            if let Some(path) = address.strip_prefix("unix:") {
                let stream = tokio::net::UnixStream::connect(path).await?;
                return Ok(Box::new(stream) as Box<dyn Connection>);
            }
            let stream = tokio::net::TcpStream::connect(address).await?;
            // Frames are coalesced before they are written: waiting for more only adds latency.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }

    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(address).await?;
            Ok(Box::new(OsListener(listener)) as Box<dyn Listener>)
        })
    }
}

impl Listener for OsListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Connection>, peer))
        })
    }
}

// === impl WallClock ===

impl WallClock for OsClock {
    fn unix_time(&self) -> Duration {
        // A clock set before 1970 reads as 1970.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
    }
}

// === impl RandomSource ===

impl RandomSource for OsRandom {
    fn next_u64(&self) -> u64 {
        use std::hash::BuildHasher;
        let count = self
            .count
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.keys.hash_one(count)
    }
}

// === impl ComputePool ===

impl ComputePool for OsCompute {
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), ComputeError>> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        let threads = Arc::clone(&self.threads);
        Box::pin(async move {
            let place = place.map_err(|_| ComputeError::Full)?;
            let thread = threads
                .acquire_owned()
                .await
                .map_err(|_| ComputeError::Lost)?;
            #[expect(clippy::disallowed_methods, reason = "this is the compute pool")]
            let running = tokio::task::spawn_blocking(move || {
                // Held here and not by the caller: a cancelled caller does not stop the thread.
                let _held = (place, thread);
                job();
            });
            running.await.map_err(|_| ComputeError::Lost)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn compute_gives_back_the_result() {
        let environment = Environment::system();
        assert_eq!(environment.compute(|| 6 * 7).await, Ok(42));
    }

    #[tokio::test]
    async fn a_panicking_job_is_an_error_and_frees_its_thread() {
        let pool = OsCompute {
            threads: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(1)),
        };
        let lost = pool.run(Box::new(|| panic!("boom"))).await;
        assert_eq!(lost, Err(ComputeError::Lost));
        assert_eq!(pool.run(Box::new(|| ())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_full_pool_refuses_at_once() {
        let pool = OsCompute {
            threads: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(1)),
        };
        let first = pool.run(Box::new(|| ()));
        assert_eq!(pool.run(Box::new(|| ())).await, Err(ComputeError::Full));
        assert_eq!(first.await, Ok(()));
    }

    #[test]
    fn random_numbers_differ() {
        let random = Environment::system().random;
        assert_ne!(random.next_u64(), random.next_u64());
    }
}
