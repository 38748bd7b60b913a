//! The last known set of living processes, as a state machine without I/O.
//!
//! [`View::apply`] takes any event and gives back the least deltas that lead from the state
//! before to the state after. Backends publish through it (a whole listing becomes deltas), and
//! watchers follow with it (a resync becomes deltas).
//!
//! Invariants
//! - The deltas given back turn the state before into the state after, each is a real change,
//!   and they come in the order removed, added or changed by id, staleness.
//! - Only an event that names a process takes it away; staleness leaves every process in place.

use super::{EndpointId, InstanceRecord, ProcessId, ProcessRecord};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Living processes by id.
pub type Processes = BTreeMap<ProcessId, Arc<ProcessRecord>>;

/// What a watch yields.
#[derive(Debug, Clone, PartialEq)]
pub enum DiscoveryEvent {
    /// The whole state, first and after a resync: it replaces what was known.
    Snapshot {
        /// All living processes.
        processes: Processes,
        /// Since when the backend is out of reach, if it is.
        stale: Option<Instant>,
    },
    /// A process announced itself.
    Added(ProcessId, Arc<ProcessRecord>),
    /// A process replaced its record.
    Changed(ProcessId, Arc<ProcessRecord>),
    /// A process withdrew or died.
    Removed(ProcessId),
    /// The backend is out of reach: from here on the view may be outdated.
    Stale {
        /// When it was last known to be right.
        since: Instant,
    },
    /// The backend is back, and the view is right again.
    Fresh,
}

/// The last known set of living processes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct View {
    processes: Processes,
    stale: Option<Instant>,
    known: bool,
}

impl View {
    /// All processes last known to live.
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// Since when the view may be outdated.
    pub fn stale_since(&self) -> Option<Instant> {
        self.stale
    }

    /// Whether a snapshot was seen.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// The instances of an endpoint, by process id.
    pub fn instances<'a>(
        &'a self,
        endpoint: &'a EndpointId,
    ) -> impl Iterator<Item = (ProcessId, &'a InstanceRecord)> {
        self.processes
            .iter()
            .filter_map(|(id, record)| Some((*id, record.instance(endpoint)?)))
    }

    /// The whole state as an event.
    pub fn snapshot(&self) -> DiscoveryEvent {
        DiscoveryEvent::Snapshot {
            processes: self.processes.clone(),
            stale: self.stale,
        }
    }

    /// Takes an event in, and gives back what changed.
    pub fn apply(&mut self, event: DiscoveryEvent) -> Vec<DiscoveryEvent> {
        let mut deltas = Vec::new();
        match event {
            DiscoveryEvent::Snapshot { processes, stale } => {
                self.known = true;
                self.replace(processes, &mut deltas);
                self.set_stale(stale, &mut deltas);
            }
            DiscoveryEvent::Added(id, record) | DiscoveryEvent::Changed(id, record) => {
                self.put(id, record, &mut deltas);
            }
            DiscoveryEvent::Removed(id) => self.remove(id, &mut deltas),
            DiscoveryEvent::Stale { since } => {
                // The first loss counts: the view is outdated since then.
                let since = self.stale.unwrap_or(since);
                self.set_stale(Some(since), &mut deltas);
            }
            DiscoveryEvent::Fresh => self.set_stale(None, &mut deltas),
        }
        deltas
    }

    fn replace(&mut self, processes: Processes, deltas: &mut Vec<DiscoveryEvent>) {
        let gone: Vec<ProcessId> = self
            .processes
            .keys()
            .filter(|id| !processes.contains_key(id))
            .copied()
            .collect();
        for id in gone {
            self.remove(id, deltas);
        }
        for (id, record) in processes {
            self.put(id, record, deltas);
        }
    }

    fn put(&mut self, id: ProcessId, record: Arc<ProcessRecord>, deltas: &mut Vec<DiscoveryEvent>) {
        let before = self.processes.insert(id, Arc::clone(&record));
        match before {
            None => deltas.push(DiscoveryEvent::Added(id, record)),
            Some(old) if Arc::ptr_eq(&old, &record) || old == record => {}
            Some(_) => deltas.push(DiscoveryEvent::Changed(id, record)),
        }
    }

    fn remove(&mut self, id: ProcessId, deltas: &mut Vec<DiscoveryEvent>) {
        if self.processes.remove(&id).is_some() {
            deltas.push(DiscoveryEvent::Removed(id));
        }
    }

    fn set_stale(&mut self, stale: Option<Instant>, deltas: &mut Vec<DiscoveryEvent>) {
        if self.stale == stale {
            return;
        }
        if self.stale.is_some() && stale.is_some() {
            // Another outage than the one that is known.
            deltas.push(DiscoveryEvent::Fresh);
        }
        self.stale = stale;
        deltas.push(
            stale.map_or(DiscoveryEvent::Fresh, |since| DiscoveryEvent::Stale {
                since,
            }),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn record(version: u8) -> Arc<ProcessRecord> {
        Arc::new(ProcessRecord {
            instances: vec![InstanceRecord {
                endpoint: EndpointId::new("ns", "comp", "ep").unwrap(),
                address: format!("tcp://127.0.0.1:{version}"),
                metadata: BTreeMap::new(),
            }],
            ..ProcessRecord::default()
        })
    }

    fn id(id: u64) -> ProcessId {
        ProcessId::new(id).unwrap()
    }

    /// Events over few processes and few records, so that they meet.
    fn events() -> impl Strategy<Value = Vec<DiscoveryEvent>> {
        let start = Instant::now();
        let ids = (1_u64..6).prop_map(id);
        let records = (0_u8..3).prop_map(record);
        let since = (0_u64..3).prop_map(move |s| start + Duration::from_secs(s));
        let snapshot = (
            proptest::collection::btree_map(ids.clone(), records.clone(), 0..5),
            proptest::option::of(since.clone()),
        );
        let event = prop_oneof![
            snapshot.prop_map(|(processes, stale)| DiscoveryEvent::Snapshot { processes, stale }),
            (ids.clone(), records.clone()).prop_map(|(i, r)| DiscoveryEvent::Added(i, r)),
            (ids.clone(), records).prop_map(|(i, r)| DiscoveryEvent::Changed(i, r)),
            ids.prop_map(DiscoveryEvent::Removed),
            since.prop_map(|since| DiscoveryEvent::Stale { since }),
            Just(DiscoveryEvent::Fresh),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        #[test]
        fn deltas_lead_a_follower_to_the_same_state(events in events()) {
            let mut view = View::default();
            let mut follower = View::default();
            for event in events {
                for delta in view.apply(event) {
                    // Each delta is a real change, and says of the right kind which.
                    match &delta {
                        DiscoveryEvent::Added(id, _) => {
                            prop_assert!(!follower.processes.contains_key(id));
                        }
                        DiscoveryEvent::Changed(id, record) => {
                            prop_assert_ne!(&follower.processes[id], record);
                        }
                        DiscoveryEvent::Removed(id) => {
                            prop_assert!(follower.processes.contains_key(id));
                        }
                        DiscoveryEvent::Snapshot { .. } => prop_assert!(false, "not a delta"),
                        DiscoveryEvent::Stale { .. } | DiscoveryEvent::Fresh => {}
                    }
                    prop_assert_eq!(follower.apply(delta).len(), 1);
                }
                prop_assert_eq!(&follower.processes, &view.processes);
                prop_assert_eq!(follower.stale, view.stale);
            }
        }

        #[test]
        fn a_snapshot_of_a_view_changes_nothing_in_it(events in events()) {
            let mut view = View::default();
            for event in events {
                view.apply(event);
            }
            let before = view.clone();
            prop_assert_eq!(view.apply(before.snapshot()), Vec::new());
            prop_assert_eq!(&view.processes, &before.processes);
        }

        #[test]
        fn staleness_leaves_every_process_in_place(events in events()) {
            let mut view = View::default();
            for event in events {
                view.apply(event);
            }
            let before = view.processes.clone();
            view.apply(DiscoveryEvent::Stale { since: Instant::now() });
            view.apply(DiscoveryEvent::Fresh);
            prop_assert_eq!(view.processes, before);
        }
    }

    #[test]
    fn a_second_loss_keeps_the_time_of_the_first() {
        let first = Instant::now();
        let mut view = View::default();
        view.apply(DiscoveryEvent::Stale { since: first });
        let later = first + Duration::from_secs(1);
        assert_eq!(view.apply(DiscoveryEvent::Stale { since: later }), vec![]);
        assert_eq!(view.stale_since(), Some(first));
    }

    #[test]
    fn instances_come_in_the_order_of_their_ids() {
        let mut view = View::default();
        for n in [5, 1, 3] {
            view.apply(DiscoveryEvent::Added(id(n), record(0)));
        }
        view.apply(DiscoveryEvent::Added(id(2), Arc::default()));
        let endpoint = EndpointId::new("ns", "comp", "ep").unwrap();
        let ids: Vec<u64> = view.instances(&endpoint).map(|(id, _)| id.get()).collect();
        assert_eq!(ids, [1, 3, 5]);
    }
}
