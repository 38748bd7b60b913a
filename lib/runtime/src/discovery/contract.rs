//! The contract of discovery: one suite that every backend passes. Test support.
//!
//! A backend's tests say how a process of it is started and killed and how the backend is lost
//! and comes back ([`TestBackend`], [`TestProcess`]); [`discovery_contract!`](crate::discovery_contract)
//! then makes one test of each case. The cases panic where the backend breaks the contract.

use super::feed::WATCH_BUFFER;
use super::view::{DiscoveryEvent, Processes, View};
use super::{
    Discovery, DiscoveryError, DiscoveryWatch, EndpointId, InstanceRecord, MAX_RECORD_BYTES,
    ProcessId, ProcessRecord, RecordError,
};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::time::Duration;

/// A backend under test.
pub trait TestBackend {
    /// Starts a process.
    fn start(&self) -> Box<dyn TestProcess>;
    /// Loses the backend (for all processes), or brings it back.
    fn set_available(&self, available: bool);
}

/// A process under test. Dropping it is an orderly end.
pub trait TestProcess: Discovery {
    /// Ends as abruptly as the backend allows.
    fn kill(self: Box<Self>);
}

/// Nothing in a healthy run takes this long: a case that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Replacements in the cases that make many.
const MANY_CHANGES: u16 = 3 * WATCH_BUFFER as u16;

/// Processes in the cases that have many.
const MANY_PROCESSES: u16 = 40;

/// Makes one test of each case for a backend: `discovery_contract!(mem, MemBackend::new());`
#[macro_export]
macro_rules! discovery_contract {
    ($name:ident, $backend:expr) => {
        $crate::discovery_contract! { @cases $name, $backend,
            an_announcement_is_seen_by_others_and_by_its_own_process,
            a_replacement_is_seen_whole,
            a_withdrawal_takes_the_record_and_keeps_the_id,
            a_death_is_noticed,
            an_orderly_end_is_noticed,
            a_late_watcher_starts_with_everything,
            deltas_follow_the_snapshot_without_a_gap,
            a_slow_watcher_gets_a_bounded_number_of_events,
            a_record_that_is_too_large_is_refused_and_changes_nothing,
            ids_are_unique_among_the_living,
            an_outage_keeps_the_last_view_and_marks_it_stale,
            a_watcher_that_comes_in_an_outage_learns_of_it,
            what_was_wished_in_an_outage_is_done_after_it,
            a_death_in_an_outage_is_noticed_after_it,
            many_processes_see_each_other,
        }
    };
    (@cases $name:ident, $backend:expr, $($case:ident,)+) => {
        mod $name {
            #[expect(unused_imports, reason = "the backend may be written without names from outside")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    $crate::discovery::contract::$case(&$backend).await;
                }
            )+
        }
    };
}

/// Follows a watch, and checks that each event says the truth about what came before it.
#[derive(Debug)]
struct Follower {
    watch: DiscoveryWatch,
    view: View,
    events: usize,
}

impl Follower {
    fn new(process: &dyn TestProcess) -> Self {
        Self {
            watch: process.watch(),
            view: View::default(),
            events: 0,
        }
    }

    async fn step(&mut self) {
        let event = tokio::time::timeout(PATIENCE, self.watch.next()).await;
        let event = event
            .unwrap_or_else(|_| panic!("no event within {PATIENCE:?}, at {:?}", self.view))
            .expect("a watch lasts as long as its process");
        self.events += 1;
        let processes = self.view.processes();
        match &event {
            DiscoveryEvent::Snapshot { .. } => {}
            first if !self.view.is_known() => panic!("{first:?} came before the snapshot"),
            DiscoveryEvent::Added(id, _) => assert!(!processes.contains_key(id), "{event:?}"),
            DiscoveryEvent::Changed(id, record) => {
                assert_ne!(processes.get(id), Some(record), "{event:?}");
                assert!(processes.contains_key(id), "{event:?}");
            }
            DiscoveryEvent::Removed(id) => assert!(processes.contains_key(id), "{event:?}"),
            DiscoveryEvent::Stale { .. } | DiscoveryEvent::Fresh => {}
        }
        self.view.apply(event);
    }

    async fn until(&mut self, reached: impl Fn(&View) -> bool) {
        while !(self.view.is_known() && reached(&self.view)) {
            self.step().await;
        }
    }

    async fn until_exactly(&mut self, ids: &[ProcessId]) {
        let ids: BTreeSet<ProcessId> = ids.iter().copied().collect();
        self.until(|view| view.processes().keys().copied().eq(ids.iter().copied()))
            .await;
    }
}

/// A record that is recognisable by a number in each of its parts.
fn record(number: u16) -> ProcessRecord {
    let instance = |name: &str| InstanceRecord {
        endpoint: EndpointId::new("contract", "component", name).expect("these are names"),
        address: format!("tcp://127.0.0.1:{number}"),
        metadata: [("number".to_owned(), number.into())].into(),
    };
    ProcessRecord {
        instances: ["one", "two", "three"].map(instance).into(),
        ..ProcessRecord::default()
    }
}

/// The number of a record, all of whose parts must have it.
fn number(record: &ProcessRecord) -> u16 {
    let port = |address: &str| {
        address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
    };
    let number = record
        .instances
        .first()
        .and_then(|first| port(&first.address));
    let number = number.expect("a record of this suite");
    assert_eq!(*record, self::record(number), "a record of mixed parts");
    number
}

fn numbers(processes: &Processes) -> BTreeSet<u16> {
    processes.values().map(|record| number(record)).collect()
}

async fn announce(process: &dyn TestProcess, number: u16) -> ProcessId {
    let announced = process.announce(record(number)).await;
    announced.expect("the backend is there")
}

fn assert_unavailable<T: std::fmt::Debug>(result: &Result<T, DiscoveryError>) {
    assert!(
        matches!(result, Err(DiscoveryError::Unavailable { .. })),
        "{result:?}"
    );
}

/// What one process announces, all see.
pub async fn an_announcement_is_seen_by_others_and_by_its_own_process(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut others = Follower::new(&*listener);
    let mut own = Follower::new(&*speaker);
    let id = announce(&*speaker, 7).await;
    for follower in [&mut others, &mut own] {
        follower.until_exactly(&[id]).await;
        assert_eq!(numbers(follower.view.processes()), [7].into());
        assert_eq!(follower.view.stale_since(), None);
    }
}

/// A record is replaced under the same id, and nobody sees parts of two records.
pub async fn a_replacement_is_seen_whole(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    let id = announce(&*speaker, 0).await;
    let last = 60;
    let speak = async {
        for number in 1..=last {
            assert_eq!(announce(&*speaker, number).await, id);
        }
    };
    let listen = async {
        while !numbers(follower.view.processes()).contains(&last) {
            follower.step().await;
        }
    };
    tokio::join!(speak, listen);
}

/// A process can fall silent without dying.
pub async fn a_withdrawal_takes_the_record_and_keeps_the_id(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    speaker
        .withdraw()
        .await
        .expect("nothing to withdraw is fine");
    let id = announce(&*speaker, 1).await;
    follower.until_exactly(&[id]).await;
    speaker.withdraw().await.expect("the backend is there");
    follower.until_exactly(&[]).await;
    assert_eq!(announce(&*speaker, 2).await, id);
    follower.until_exactly(&[id]).await;
}

/// The record of a process that dies without a word vanishes, and no other's.
pub async fn a_death_is_noticed(backend: &dyn TestBackend) {
    let (victim, other, listener) = (backend.start(), backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    let dead = announce(&*victim, 1).await;
    let alive = announce(&*other, 2).await;
    follower.until_exactly(&[dead, alive]).await;
    victim.kill();
    follower.until_exactly(&[alive]).await;
}

/// The record of a process that ends vanishes too.
pub async fn an_orderly_end_is_noticed(backend: &dyn TestBackend) {
    let (leaving, listener) = (backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    let id = announce(&*leaving, 1).await;
    follower.until_exactly(&[id]).await;
    drop(leaving);
    follower.until_exactly(&[]).await;
}

/// Who comes late gets all that is there as one snapshot.
pub async fn a_late_watcher_starts_with_everything(backend: &dyn TestBackend) {
    let (one, two, late) = (backend.start(), backend.start(), backend.start());
    let ids = [announce(&*one, 1).await, announce(&*two, 2).await];
    let mut early = Follower::new(&*one);
    early.until_exactly(&ids).await;
    let mut follower = Follower::new(&*one);
    follower.step().await;
    assert_eq!(follower.view.processes().len(), 2);
    // The same for the first watcher of another process, however soon its backend knows.
    Follower::new(&*late).until_exactly(&ids).await;
}

/// Watches that start amid changes miss none of them.
pub async fn deltas_follow_the_snapshot_without_a_gap(backend: &dyn TestBackend) {
    let speakers: Vec<_> = (0..8).map(|_| backend.start()).collect();
    let listener = backend.start();
    let rounds = 10;
    let speak = join_all(speakers.iter().zip(0_u16..).map(|(speaker, n)| async move {
        for round in 0..rounds {
            announce(&**speaker, 100 * n + round).await;
        }
    }));
    let expected: BTreeSet<u16> = (0..8).map(|n| 100 * n + rounds - 1).collect();
    let listen = join_all((0..8).map(|_| async {
        let mut follower = Follower::new(&*listener);
        while numbers(follower.view.processes()) != expected {
            follower.step().await;
            tokio::task::yield_now().await;
        }
    }));
    tokio::join!(speak, listen);
}

/// A watcher that does not read costs a bounded amount, and is right once it reads.
pub async fn a_slow_watcher_gets_a_bounded_number_of_events(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut slow = Follower::new(&*listener);
    slow.step().await;
    for number in 0..MANY_CHANGES {
        announce(&*speaker, number).await;
    }
    let mut quick = Follower::new(&*listener);
    let last: BTreeSet<u16> = [MANY_CHANGES - 1].into();
    quick.until(|view| numbers(view.processes()) == last).await;
    slow.events = 0;
    slow.until(|view| numbers(view.processes()) == last).await;
    // What was buffered, or the snapshot instead of it.
    assert!(slow.events <= WATCH_BUFFER + 1, "{}", slow.events);
}

/// A record over the limit is refused; the one before stays.
pub async fn a_record_that_is_too_large_is_refused_and_changes_nothing(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    let id = announce(&*speaker, 1).await;
    let mut large = record(2);
    large.instances[1]
        .metadata
        .insert("padding".to_owned(), "x".repeat(MAX_RECORD_BYTES).into());
    let refused = speaker.announce(large).await;
    let Err(DiscoveryError::Record(RecordError::TooLarge { size, biggest, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert!(size > MAX_RECORD_BYTES);
    assert!(biggest.contains("contract.component.two"), "{biggest}");
    follower.until_exactly(&[id]).await;
    assert_eq!(numbers(follower.view.processes()), [1].into());
}

/// No two living processes have the same id.
pub async fn ids_are_unique_among_the_living(backend: &dyn TestBackend) {
    let processes: Vec<_> = (0..MANY_PROCESSES).map(|_| backend.start()).collect();
    let announced = processes
        .iter()
        .zip(0_u16..)
        .map(|(process, number)| announce(&**process, number));
    let ids: BTreeSet<ProcessId> = join_all(announced).await.into_iter().collect();
    assert_eq!(ids.len(), processes.len());
    assert!(
        ids.iter()
            .all(|id| (1..=ProcessId::MAX).contains(&id.get()))
    );
}

/// Losing the backend takes nobody away; its return says that the view is right again.
pub async fn an_outage_keeps_the_last_view_and_marks_it_stale(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    let id = announce(&*speaker, 1).await;
    follower.until_exactly(&[id]).await;
    backend.set_available(false);
    follower.until(|view| view.stale_since().is_some()).await;
    assert_eq!(numbers(follower.view.processes()), [1].into());
    backend.set_available(true);
    while follower.view.stale_since().is_some() {
        follower.step().await;
        assert_eq!(numbers(follower.view.processes()), [1].into());
    }
}

/// Who starts to watch beside another watcher in an outage gets the last view, marked stale.
pub async fn a_watcher_that_comes_in_an_outage_learns_of_it(backend: &dyn TestBackend) {
    let (speaker, listener) = (backend.start(), backend.start());
    let mut early = Follower::new(&*listener);
    let id = announce(&*speaker, 1).await;
    early.until_exactly(&[id]).await;
    backend.set_available(false);
    early.until(|view| view.stale_since().is_some()).await;
    let mut late = Follower::new(&*listener);
    late.step().await;
    assert_eq!(numbers(late.view.processes()), [1].into());
    assert_eq!(late.view.stale_since(), early.view.stale_since());
    backend.set_available(true);
    late.until(|view| view.stale_since().is_none()).await;
}

/// Announcements and withdrawals that an outage refused are carried out when it ends.
pub async fn what_was_wished_in_an_outage_is_done_after_it(backend: &dyn TestBackend) {
    let (changing, leaving, fresh) = (backend.start(), backend.start(), backend.start());
    let listener = backend.start();
    let mut follower = Follower::new(&*listener);
    let ids = [announce(&*changing, 1).await, announce(&*leaving, 2).await];
    follower.until_exactly(&ids).await;
    backend.set_available(false);
    follower.until(|view| view.stale_since().is_some()).await;
    assert_unavailable(&changing.announce(record(10)).await);
    assert_unavailable(&changing.announce(record(11)).await);
    assert_unavailable(&leaving.withdraw().await);
    assert_unavailable(&fresh.announce(record(12)).await);
    backend.set_available(true);
    let wished: BTreeSet<u16> = [11, 12].into();
    follower
        .until(|view| view.stale_since().is_none() && numbers(view.processes()) == wished)
        .await;
    assert!(follower.view.processes().contains_key(&ids[0]));
}

/// A process that dies while the backend is away is gone when it is back.
pub async fn a_death_in_an_outage_is_noticed_after_it(backend: &dyn TestBackend) {
    let (victim, other, listener) = (backend.start(), backend.start(), backend.start());
    let mut follower = Follower::new(&*listener);
    let (dead, alive) = (announce(&*victim, 1).await, announce(&*other, 2).await);
    follower.until_exactly(&[dead, alive]).await;
    backend.set_available(false);
    follower.until(|view| view.stale_since().is_some()).await;
    victim.kill();
    backend.set_available(true);
    follower.until_exactly(&[alive]).await;
    follower.until(|view| view.stale_since().is_none()).await;
}

/// Many processes announce at once, and each sees all.
pub async fn many_processes_see_each_other(backend: &dyn TestBackend) {
    let processes: Vec<_> = (0..MANY_PROCESSES).map(|_| backend.start()).collect();
    let all: BTreeSet<u16> = (0..MANY_PROCESSES).collect();
    join_all(processes.iter().zip(0_u16..).map(|(process, number)| {
        let all = &all;
        async move {
            let mut follower = Follower::new(&**process);
            announce(&**process, number).await;
            follower
                .until(|view| numbers(view.processes()) == *all)
                .await;
        }
    }))
    .await;
}
