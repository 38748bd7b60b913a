//! The set of living processes as etcd tells it, and what an outage makes of it: a state machine
//! without I/O.
//!
//! While etcd is out of reach nobody can renew a lease, and an etcd that comes back may have
//! forgotten everything, or may end at once every lease whose time went by. Neither says that a
//! process is dead. So an outage is not over when etcd answers: until the grace is over, whoever
//! was alive and is not there any more is kept, and the view stays marked stale. By then each living
//! process has announced itself again. Who withdrew by its own word is gone at once.
//!
//! Invariants
//! - Outside of an outage and its grace the view is what etcd says.
//! - Within them nobody goes but by its own word.
//! - Another outage within the grace begins the grace anew.

use super::view::{DiscoveryEvent, Processes};
use super::{ProcessId, ProcessRecord};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What etcd holds of a process.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Entry {
    /// Its record.
    Record(Arc<ProcessRecord>),
    /// Its word that it has none.
    Withdrawn,
}

/// The state.
#[derive(Debug)]
pub(super) struct Mirror {
    grace: Duration,
    present: Processes,
    /// Were there before the outage, and went without a word.
    missing: Processes,
    outage: Option<Outage>,
}

/// From the loss of etcd to the end of the grace.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// `None` while etcd is out of reach.
    grace_ends: Option<Instant>,
}

// === impl Mirror ===

impl Mirror {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            present: Processes::new(),
            missing: Processes::new(),
            outage: None,
        }
    }

    /// Etcd is out of reach.
    pub(super) fn lost(&mut self, now: Instant) -> DiscoveryEvent {
        let outage = self.outage.get_or_insert(Outage {
            since: now,
            grace_ends: None,
        });
        outage.grace_ends = None;
        DiscoveryEvent::Stale {
            since: outage.since,
        }
    }

    /// Etcd holds these and no others.
    pub(super) fn listed(
        &mut self,
        entries: BTreeMap<ProcessId, Entry>,
        now: Instant,
    ) -> DiscoveryEvent {
        let before = std::mem::take(&mut self.present);
        if let Some(outage) = &mut self.outage {
            outage.grace_ends.get_or_insert(now + self.grace);
            self.missing.extend(before);
            self.missing.retain(|id, _| !entries.contains_key(id));
        }
        let records = entries.into_iter().filter_map(|(id, entry)| match entry {
            Entry::Record(record) => Some((id, record)),
            Entry::Withdrawn => None,
        });
        self.present = records.collect();
        let mut processes = self.missing.clone();
        processes.extend(self.present.clone());
        DiscoveryEvent::Snapshot {
            processes,
            stale: self.outage.as_ref().map(|outage| outage.since),
        }
    }

    /// A process wrote its entry.
    pub(super) fn wrote(&mut self, id: ProcessId, entry: Entry) -> DiscoveryEvent {
        self.missing.remove(&id);
        match entry {
            Entry::Record(record) => {
                self.present.insert(id, Arc::clone(&record));
                DiscoveryEvent::Changed(id, record)
            }
            Entry::Withdrawn => {
                self.present.remove(&id);
                DiscoveryEvent::Removed(id)
            }
        }
    }

    /// A process's entry is gone: it ended, or its lease did.
    pub(super) fn gone(&mut self, id: ProcessId) -> Option<DiscoveryEvent> {
        let record = self.present.remove(&id)?;
        if self.outage.is_some() {
            self.missing.insert(id, record);
            return None;
        }
        Some(DiscoveryEvent::Removed(id))
    }

    /// Whether there is an outage, or its grace.
    pub(super) fn is_stale(&self) -> bool {
        self.outage.is_some()
    }

    /// When [`Mirror::pass`] has something to do.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        self.outage.as_ref()?.grace_ends
    }

    /// Time went by.
    pub(super) fn pass(&mut self, now: Instant) -> Vec<DiscoveryEvent> {
        if self.wakes_at().is_none_or(|ends| now < ends) {
            return Vec::new();
        }
        self.outage = None;
        let missing = std::mem::take(&mut self.missing);
        let gone = missing.into_keys().map(DiscoveryEvent::Removed);
        gone.chain([DiscoveryEvent::Fresh]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::View;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const GRACE: Duration = Duration::from_secs(15);

    fn id(number: u64) -> ProcessId {
        ProcessId::new(number).unwrap()
    }

    fn record() -> Entry {
        Entry::Record(Arc::default())
    }

    fn entries(ids: &[u64]) -> BTreeMap<ProcessId, Entry> {
        ids.iter().map(|number| (id(*number), record())).collect()
    }

    /// A mirror and a view that follows it.
    struct Followed {
        mirror: Mirror,
        view: View,
        start: Instant,
    }

    impl Followed {
        fn new() -> Self {
            Self {
                mirror: Mirror::new(GRACE),
                view: View::default(),
                start: Instant::now(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn lost(&mut self, seconds: u64) {
            let event = self.mirror.lost(self.at(seconds));
            self.view.apply(event);
        }

        fn listed(&mut self, listed: BTreeMap<ProcessId, Entry>, seconds: u64) {
            let event = self.mirror.listed(listed, self.at(seconds));
            self.view.apply(event);
        }

        fn wrote(&mut self, number: u64, entry: Entry) {
            let event = self.mirror.wrote(id(number), entry);
            self.view.apply(event);
        }

        fn gone(&mut self, number: u64) {
            if let Some(event) = self.mirror.gone(id(number)) {
                self.view.apply(event);
            }
        }

        fn pass(&mut self, seconds: u64) {
            for event in self.mirror.pass(self.at(seconds)) {
                self.view.apply(event);
            }
        }

        fn ids(&self) -> Vec<u64> {
            self.view.processes().keys().map(|id| id.get()).collect()
        }

        fn is_stale(&self) -> bool {
            self.view.stale_since().is_some()
        }
    }

    #[test]
    fn without_an_outage_the_view_is_what_etcd_says() {
        let mut followed = Followed::new();
        followed.listed(entries(&[1, 2]), 0);
        followed.gone(1);
        followed.wrote(3, record());
        assert_eq!(followed.ids(), [2, 3]);
        // After a compaction, say.
        followed.listed(entries(&[3]), 1);
        assert_eq!((followed.ids(), followed.is_stale()), (vec![3], false));
    }

    #[test]
    fn an_etcd_that_forgot_everything_takes_nobody_before_they_could_return() {
        let mut followed = Followed::new();
        followed.listed(entries(&[1, 2, 3]), 0);
        followed.lost(1);
        followed.lost(2);
        assert_eq!(followed.view.stale_since(), Some(followed.at(1)));
        followed.listed(entries(&[]), 60);
        assert_eq!(followed.ids(), [1, 2, 3]);
        followed.wrote(1, record());
        followed.pass(74);
        assert_eq!((followed.ids(), followed.is_stale()), (vec![1, 2, 3], true));
        followed.pass(75);
        assert_eq!((followed.ids(), followed.is_stale()), (vec![1], false));
    }

    #[test]
    fn leases_that_end_when_etcd_thaws_take_nobody_before_they_could_return() {
        let mut followed = Followed::new();
        followed.listed(entries(&[1, 2]), 0);
        followed.lost(1);
        followed.listed(entries(&[1, 2]), 30);
        followed.gone(1);
        followed.gone(2);
        assert_eq!(followed.ids(), [1, 2]);
        followed.wrote(2, record());
        followed.pass(45);
        assert_eq!(followed.ids(), [2]);
    }

    #[test]
    fn who_withdraws_in_an_outage_is_gone_at_once_after_it() {
        let mut followed = Followed::new();
        followed.listed(entries(&[1, 2, 3]), 0);
        followed.lost(1);
        let mut listed = entries(&[1]);
        listed.insert(id(2), Entry::Withdrawn);
        followed.listed(listed, 2);
        assert_eq!(followed.ids(), [1, 3]);
        followed.wrote(3, Entry::Withdrawn);
        assert_eq!(followed.ids(), [1]);
    }

    #[test]
    fn another_outage_within_the_grace_begins_it_anew() {
        let mut followed = Followed::new();
        followed.listed(entries(&[1]), 0);
        followed.lost(1);
        followed.listed(entries(&[]), 2);
        followed.lost(10);
        followed.pass(60);
        followed.listed(entries(&[]), 60);
        followed.pass(74);
        assert_eq!(followed.ids(), [1]);
        assert_eq!(followed.view.stale_since(), Some(followed.at(1)));
        followed.pass(75);
        assert_eq!((followed.ids(), followed.is_stale()), (vec![], false));
    }

    #[test]
    fn the_first_snapshot_after_a_start_without_etcd_is_stale_until_all_could_return() {
        let mut followed = Followed::new();
        followed.lost(0);
        assert!(!followed.view.is_known());
        followed.listed(entries(&[1]), 5);
        assert!(followed.view.is_known() && followed.is_stale());
        followed.gone(1);
        followed.wrote(1, record());
        followed.pass(20);
        assert_eq!((followed.ids(), followed.is_stale()), (vec![1], false));
    }

    #[derive(Debug, Clone)]
    enum Happens {
        Writes(u64),
        Withdraws(u64),
        Ends(u64),
        EtcdIsLost,
        EtcdForgets,
        EtcdIsBack,
        TimePasses(u64),
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            (1_u64..5).prop_map(Happens::Writes),
            (1_u64..5).prop_map(Happens::Withdraws),
            (1_u64..5).prop_map(Happens::Ends),
            Just(Happens::EtcdIsLost),
            Just(Happens::EtcdForgets),
            Just(Happens::EtcdIsBack),
            (1_u64..30).prop_map(Happens::TimePasses),
        ]
    }

    proptest! {
        /// Against a model that knows all: nobody goes within an outage and its grace but by its own
        /// word, and once fresh the view is what etcd holds.
        #[test]
        fn nobody_goes_silently_in_an_outage(story in prop::collection::vec(happens(), 0..80)) {
            let mut followed = Followed::new();
            let mut etcd: BTreeMap<ProcessId, Entry> = BTreeMap::new();
            let (mut connected, mut now) = (true, 0);
            followed.listed(etcd.clone(), now);
            for happens in story {
                let before: BTreeSet<u64> = followed.ids().into_iter().collect();
                let was_stale = followed.is_stale();
                let mut withdrew = None;
                match happens {
                    Happens::Writes(number) => {
                        etcd.insert(id(number), record());
                        if connected { followed.wrote(number, record()) }
                    }
                    Happens::Withdraws(number) => {
                        etcd.insert(id(number), Entry::Withdrawn);
                        withdrew = Some(number);
                        if connected { followed.wrote(number, Entry::Withdrawn) }
                    }
                    Happens::Ends(number) => {
                        etcd.remove(&id(number));
                        if connected { followed.gone(number) }
                    }
                    Happens::EtcdIsLost => { connected = false; followed.lost(now) }
                    Happens::EtcdForgets => {
                        connected = false;
                        followed.lost(now);
                        etcd.clear();
                    }
                    Happens::EtcdIsBack => {
                        connected = true;
                        followed.listed(etcd.clone(), now);
                        continue;
                    }
                    Happens::TimePasses(seconds) => { now += seconds; followed.pass(now) }
                }
                if was_stale && followed.is_stale() {
                    let after: BTreeSet<u64> = followed.ids().into_iter().collect();
                    prop_assert!(before.difference(&after).all(|gone| Some(*gone) == withdrew));
                }
                if !followed.is_stale() {
                    let held = etcd.iter().filter(|(_, entry)| **entry != Entry::Withdrawn);
                    let held: Vec<u64> = held.map(|(id, _)| id.get()).collect();
                    prop_assert_eq!(followed.ids(), held);
                }
            }
        }
    }
}
