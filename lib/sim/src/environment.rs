//! The runtime's seam, filled with simulated parts: turmoil's network, virtual time of day, random
//! numbers from the seed, and a compute pool that computes on the spot.
//!
//! Every connection, and every read and write on it with a hash of its bytes, is an event of the
//! [`Trace`]: two runs with the same trace had the same bytes on the wire at the same times.

use crate::Trace;
use crate::traffic::Traffic;
use dynamo_runtime::Environment;
use dynamo_runtime::environment::{
    ComputeError, ComputePool, Connection, Job, Listener, Network, RandomSource, WallClock,
};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};
use xxhash_rust::xxh3::xxh3_64;

/// What happens to a process from outside.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// How wrong its time of day is.
    pub skew: ClockSkew,
    /// Its connections.
    pub sockets: Sockets,
    /// What is on its way.
    pub traffic: Arc<Traffic>,
    /// Who changes what it writes, if somebody does.
    pub tamper: Option<Arc<dyn Tamper>>,
}

/// Changes what a process writes.
pub trait Tamper: Send + Sync + std::fmt::Debug {
    /// What is sent in place of these bytes, which a connection is to write at once.
    fn rewrite(&self, connection: u64, bytes: &[u8]) -> Option<Vec<u8>>;
}

/// The environment of the host of this name.
pub fn of_host(name: &str, seed: u64, trace: &Trace) -> Environment {
    of_process(name, seed, trace, &Outside::default())
}

/// The same for a process to which something may happen.
pub fn of_process(name: &str, seed: u64, trace: &Trace, outside: &Outside) -> Environment {
    let host = Arc::new(Host {
        outside: outside.clone(),
        name: name.into(),
        trace: trace.clone(),
        connections: AtomicU64::new(0),
    });
    let skew = outside.skew.clone();
    Environment {
        network: Arc::new(SimulatedNetwork { host }),
        clock: Arc::new(VirtualClock { skew }),
        // Hosts of one run must not draw the same numbers.
        random: Arc::new(SeededRandom::new(seed ^ xxh3_64(name.as_bytes()))),
        compute: Arc::new(OnTheSpot),
    }
}

/// Random numbers that a seed determines: SplitMix64, which takes any seed and any number of
/// draws, and can be drawn from by shared reference.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

/// Whose events these are.
#[derive(Debug)]
struct Host {
    name: Arc<str>,
    trace: Trace,
    connections: AtomicU64,
    outside: Outside,
}

/// The connections of a process, to be cut off in their order when it is killed. Left to itself
/// the simulator drops a killed host's tasks, and the connections with them, in an order that
/// depends on how many tasks the whole process of the simulator has ever had.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    streams: BTreeMap<u64, TcpStream>,
    is_cut_off: bool,
}

/// The simulator's network, seen from one host.
#[derive(Debug)]
struct SimulatedNetwork {
    host: Arc<Host>,
}

struct SimulatedListener {
    listener: TcpListener,
    host: Arc<Host>,
}

/// A connection whose traffic is traced.
struct Traced {
    host: Arc<Host>,
    number: u64,
    /// Both ends, the own one first.
    ends: Option<(SocketAddr, SocketAddr)>,
}

/// How wrong a host's time of day is, in seconds. Clones are the same clock's.
#[derive(Debug, Clone, Default)]
pub struct ClockSkew(Arc<AtomicI64>);

/// The simulator's time of day, and how far the host's is from it.
#[derive(Debug)]
struct VirtualClock {
    skew: ClockSkew,
}

/// Computes where it is called: a thread would bring the machine's timing into the run.
#[derive(Debug)]
struct OnTheSpot;

// === impl Sockets ===

impl Sockets {
    /// Ends every connection, and makes no more.
    pub fn cut_off(&self) {
        let mut open = self.0.lock();
        open.is_cut_off = true;
        while let Some((_, stream)) = open.streams.pop_first() {
            drop(stream);
        }
    }

    /// Does something with a connection that was not cut off.
    fn with<T>(
        &self,
        number: u64,
        act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self.0.lock().streams.get_mut(&number) {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let open = self.0.lock().streams.len();
        f.debug_struct("Sockets").field("open", &open).finish()
    }
}

// === impl ClockSkew ===

impl ClockSkew {
    /// Moves the clock by so many seconds, at once.
    pub fn jump(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

// === impl SeededRandom ===

impl SeededRandom {
    /// Numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self {
            state: AtomicU64::new(seed),
        }
    }

    /// A number of the range, its ends included. The bias of the remainder is of no matter to
    /// plans.
    pub fn between(&self, range: RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        debug_assert!(first <= last);
        match (last - first).checked_add(1) {
            Some(count) => first + self.next_u64() % count,
            None => self.next_u64(),
        }
    }

    /// True once in `count` times.
    pub fn once_in(&self, count: u64) -> bool {
        self.between(1..=count) == 1
    }
}

impl RandomSource for SeededRandom {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.state.fetch_add(GAMMA, Ordering::Relaxed);
        let mut mixed = state.wrapping_add(GAMMA);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

// === impl Network ===

impl Host {
    fn connection(self: &Arc<Self>, stream: TcpStream) -> (Box<dyn Connection>, u64) {
        let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        let host = Arc::clone(self);
        let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
        let mut open = self.outside.sockets.0.lock();
        if !open.is_cut_off {
            open.streams.insert(number, stream);
        }
        drop(open);
        let traced = Traced { host, number, ends };
        (Box::new(traced), number)
    }
}

impl Network for SimulatedNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let Host { name, trace, .. } = &*self.host;
            trace.record(name, format_args!("connects to {address}"));
            let stream = TcpStream::connect(address).await.inspect_err(|error| {
                trace.record(name, format_args!("cannot connect: {error}"));
            })?;
            let (connection, number) = self.host.connection(stream);
            trace.record(name, format_args!("connection {number} to {address}"));
            Ok(connection)
        })
    }

    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address).await?;
            let host = Arc::clone(&self.host);
            Ok(Box::new(SimulatedListener { listener, host }) as Box<dyn Listener>)
        })
    }
}

impl Listener for SimulatedListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            let (connection, number) = self.host.connection(stream);
            let Host { name, trace, .. } = &*self.host;
            trace.record(name, format_args!("connection {number} from {peer}"));
            Ok((connection, peer))
        })
    }
}

// === impl Traced ===

impl Traced {
    fn record(&self, what: &str, bytes: &[u8]) {
        let Host { name, trace, .. } = &*self.host;
        let (number, length, hash) = (self.number, bytes.len(), xxh3_64(bytes));
        trace.record(
            name,
            format_args!("connection {number} {what} {length} bytes {hash:016x}"),
        );
    }
}

impl AsyncRead for Traced {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Outside {
            sockets, traffic, ..
        } = &self.host.outside;
        ready!(sockets.with(self.number, |stream| stream.poll_read(context, buffer)))?;
        let read = &buffer.filled()[before..];
        self.record("reads", read);
        if let Some((own, peer)) = self.ends {
            traffic.read(peer, own, read.len());
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Traced {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Outside {
            sockets,
            traffic,
            tamper,
            ..
        } = &self.host.outside;
        let tamper = tamper.as_ref();
        let rewritten = tamper.and_then(|it| it.rewrite(self.number, bytes));
        let sent = rewritten.as_deref().unwrap_or(bytes);
        if sent.is_empty() {
            return Poll::Ready(Ok(bytes.len()));
        }
        // A simulated socket has room for more than a run sends: it takes everything at once.
        let written = ready!(sockets.with(self.number, |it| it.poll_write(context, sent)))?;
        self.record("writes", &sent[..written]);
        if let Some((own, peer)) = self.ends {
            traffic.wrote(own, peer, written);
        }
        Poll::Ready(Ok(match rewritten {
            None => written,
            Some(_) => bytes.len(),
        }))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sockets = &self.host.outside.sockets;
        sockets.with(self.number, |stream| stream.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sockets = &self.host.outside.sockets;
        ready!(sockets.with(self.number, |stream| stream.poll_shutdown(context)))?;
        self.record("shuts down after", &[]);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let Outside {
            sockets, traffic, ..
        } = &self.host.outside;
        if let Some((own, peer)) = self.ends {
            traffic.closed(peer, own);
        }
        let stream = sockets.0.lock().streams.remove(&self.number);
        if stream.is_some() {
            self.record("is dropped after", &[]);
        }
    }
}

// === impl WallClock ===

impl WallClock for VirtualClock {
    fn unix_time(&self) -> Duration {
        // Outside the simulation there is no time.
        let right = turmoil::since_epoch().unwrap_or_default();
        let skew = self.skew.0.load(Ordering::Relaxed);
        let wrong = Duration::from_secs(skew.unsigned_abs());
        match skew < 0 {
            true => right.saturating_sub(wrong),
            false => right.saturating_add(wrong),
        }
    }
}

// === impl ComputePool ===

impl ComputePool for OnTheSpot {
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), ComputeError>> {
        Box::pin(async move {
            job();
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_its_numbers_and_no_others() {
        let draw = |seed| {
            let random = SeededRandom::new(seed);
            [random.next_u64(), random.next_u64(), random.next_u64()]
        };
        // The published first outputs of SplitMix64.
        let published = [
            0xe220_a839_7b1d_cdaf,
            0x6e78_9e6a_a1b9_65f4,
            0x06c4_5d18_8009_454f,
        ];
        assert_eq!(draw(0), published);
        assert_ne!(draw(1), published);
    }

    #[test]
    fn numbers_stay_within_their_range_and_reach_its_ends() {
        let random = SeededRandom::new(7);
        let drawn: Vec<u64> = (0..100).map(|_| random.between(3..=5)).collect();
        assert!(drawn.iter().all(|number| (3..=5).contains(number)));
        assert!((3..=5).all(|number| drawn.contains(&number)));
    }
}
