//! Discovery as one simulated process sees it: what the backend knows, as long as it is reached.
//!
//! A process asks the backend at short intervals, which stands for a watch with some delay, and
//! renews its lease with it. One that cannot reach it keeps its view, marked stale; one whose
//! lease has run out meanwhile announces itself again.
//!
//! A process that is killed says nothing: its lease runs out. Now and then what a process hears is
//! said to it twice.

use super::world::World;
use super::{Broken, Host};
use dynamo_runtime::Tasks;
use dynamo_runtime::discovery::feed::Feed;
use dynamo_runtime::discovery::view::Processes;
use dynamo_runtime::discovery::{
    Discovery, DiscoveryError, DiscoveryEvent, DiscoveryWatch, ProcessId, ProcessRecord,
};
use dynamo_runtime::environment::RandomSource;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a process asks the backend.
const ASK_INTERVAL: Duration = Duration::from_millis(100);

/// Of so many times that a process asks it hears everything twice.
const TWICE_IN: u64 = 16;

/// See the module's description.
pub(super) struct SimulatedDiscovery {
    shared: Arc<Shared>,
}

struct Shared {
    host: Host,
    id: ProcessId,
    world: Arc<World>,
    feed: Feed,
    /// What this process wants to be known.
    wanted: Mutex<Option<Arc<ProcessRecord>>>,
    /// How late others learn of it.
    delay: Duration,
    random: Arc<dyn RandomSource>,
    /// Who was there when it asked last.
    known: Mutex<Processes>,
}

impl SimulatedDiscovery {
    /// A new process on this host, whose announcement is seen `delay` later.
    pub(super) fn join(
        host: Host,
        world: &Arc<World>,
        delay: Duration,
        random: Arc<dyn RandomSource>,
        tasks: &Tasks,
    ) -> Self {
        let shared = Arc::new(Shared {
            host,
            id: world.leases.lock().join(),
            world: Arc::clone(world),
            feed: Feed::new(),
            wanted: Mutex::default(),
            delay,
            random,
            known: Mutex::default(),
        });
        let asking = Arc::clone(&shared);
        tasks.spawn_until_cancelled("simulated discovery", async move {
            loop {
                asking.ask();
                sleep(ASK_INTERVAL).await;
            }
        });
        Self { shared }
    }
}

impl Shared {
    fn is_reached(&self) -> bool {
        self.world.reaches_discovery(self.host)
    }

    /// Renews the lease and looks who is there, if the backend can be reached.
    fn ask(&self) {
        if !self.is_reached() {
            let since = Instant::now();
            self.feed.publish(DiscoveryEvent::Stale { since });
            return;
        }
        let now = self.world.now();
        let mut leases = self.world.leases.lock();
        if let Some(record) = &*self.wanted.lock()
            && !leases.renew(self.id, now)
            && self.world.broken != Broken::LoseLease
        {
            leases.put(self.id, Arc::clone(record), Duration::ZERO, now);
            self.world.count("processes announced again", 1);
        }
        let mut processes = leases.view(now);
        if self.world.broken == Broken::MissThawed {
            processes.retain(|id, _| *id == self.id || !leases.ran_out_once(*id));
        }
        drop(leases);
        let known = std::mem::replace(&mut *self.known.lock(), processes.clone());
        if self.random.next_u64().is_multiple_of(TWICE_IN) {
            self.say_twice(&known, &processes);
        }
        self.feed.publish(DiscoveryEvent::Snapshot {
            processes,
            stale: None,
        });
    }

    /// Says one by one who is there and who is gone, each twice.
    fn say_twice(&self, known: &Processes, processes: &Processes) {
        let gone = known.keys().filter(|id| !processes.contains_key(id));
        let gone = gone.map(|id| DiscoveryEvent::Removed(*id));
        let there = processes.iter();
        let there = there.map(|(id, record)| DiscoveryEvent::Added(*id, Arc::clone(record)));
        for event in gone.chain(there) {
            self.feed.publish(event.clone());
            self.feed.publish(event);
            self.world.count("discovery events twice", 1);
        }
    }

    fn tell(&self, record: Option<ProcessRecord>) -> Result<ProcessId, DiscoveryError> {
        let record = record.map(Arc::new);
        self.wanted.lock().clone_from(&record);
        if !self.is_reached() {
            return Err(DiscoveryError::Unavailable {
                backend: "simulated",
                reason: "it cannot be reached".to_owned(),
            });
        }
        let now = self.world.now();
        let mut leases = self.world.leases.lock();
        match record {
            Some(record) => leases.put(self.id, record, self.delay, now),
            None => leases.remove(self.id),
        }
        drop(leases);
        self.ask();
        Ok(self.id)
    }
}

impl Discovery for SimulatedDiscovery {
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>> {
        Box::pin(async move {
            record.validate()?;
            self.shared.tell(Some(record))
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move { self.shared.tell(None).map(drop) })
    }

    fn watch(&self) -> DiscoveryWatch {
        self.shared.feed.watch()
    }
}

impl Drop for SimulatedDiscovery {
    fn drop(&mut self) {
        self.shared.feed.close();
    }
}

impl fmt::Debug for SimulatedDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedDiscovery")
            .field("host", &self.shared.host)
            .field("id", &self.shared.id)
            .finish()
    }
}
