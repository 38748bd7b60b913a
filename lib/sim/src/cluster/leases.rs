//! What a discovery backend with leases knows, as a state machine. Pure: time is an argument.
//!
//! A process that does not renew its lease for [`TIME_TO_LIVE`] is gone until it does. While the
//! backend is away nothing changes in it, and leases are whole again when it is back, as etcd has
//! it after a change of its leader.

use dynamo_runtime::discovery::ProcessId;
use dynamo_runtime::discovery::ProcessRecord;
use dynamo_runtime::discovery::view::Processes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a process counts as living without a sign of it.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(4);

/// The backend's state.
#[derive(Debug, Default)]
pub struct Leases {
    processes: BTreeMap<ProcessId, Lease>,
    joined: u64,
    /// Whose lease has ever run out.
    ran_out: BTreeSet<ProcessId>,
}

#[derive(Debug)]
struct Lease {
    record: Arc<ProcessRecord>,
    expires: Duration,
    /// When watchers learn of it.
    seen_from: Duration,
}

impl Leases {
    /// A new process's id.
    pub fn join(&mut self) -> ProcessId {
        self.joined += 1;
        ProcessId::from_bits(self.joined)
    }

    /// Takes a process's record, for the first time or again. What is new is seen after `delay`.
    pub fn put(
        &mut self,
        id: ProcessId,
        record: Arc<ProcessRecord>,
        delay: Duration,
        now: Duration,
    ) {
        let expires = now + TIME_TO_LIVE;
        let known = self.processes.get(&id).map(|lease| lease.seen_from);
        let seen_from = known.unwrap_or(now + delay);
        let lease = Lease {
            record,
            expires,
            seen_from,
        };
        self.processes.insert(id, lease);
    }

    /// Takes a sign of life. Whether the process was known.
    pub fn renew(&mut self, id: ProcessId, now: Duration) -> bool {
        let lease = self.processes.get_mut(&id);
        lease
            .map(|lease| lease.expires = now + TIME_TO_LIVE)
            .is_some()
    }

    /// Forgets a process.
    pub fn remove(&mut self, id: ProcessId) {
        self.processes.remove(&id);
    }

    /// Forgets who gave no sign of life; says whom.
    pub fn expire(&mut self, now: Duration) -> Vec<ProcessId> {
        let is_over = |(_, lease): &(&ProcessId, &Lease)| lease.expires <= now;
        let gone = self.processes.iter().filter(is_over);
        let gone: Vec<ProcessId> = gone.map(|(id, _)| *id).collect();
        self.processes.retain(|_, lease| lease.expires > now);
        self.ran_out.extend(&gone);
        gone
    }

    /// Whether this process's lease has ever run out.
    pub fn ran_out_once(&self, id: ProcessId) -> bool {
        self.ran_out.contains(&id)
    }

    /// The backend is back: nobody could renew meanwhile.
    pub fn extend_all(&mut self, now: Duration) {
        for lease in self.processes.values_mut() {
            lease.expires = now + TIME_TO_LIVE;
        }
    }

    /// Who lives, as watchers see it.
    pub fn view(&self, now: Duration) -> Processes {
        let seen = self.processes.iter().filter(|(_, it)| it.seen_from <= now);
        seen.map(|(id, it)| (*id, Arc::clone(&it.record))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_does_not_renew_is_gone_and_who_comes_late_is_seen_late() {
        let mut leases = Leases::default();
        let (one, two) = (leases.join(), leases.join());
        leases.put(one, Arc::default(), at(0), at(0));
        leases.put(two, Arc::default(), at(2), at(0));
        assert_eq!(leases.view(at(1)).len(), 1);
        assert_eq!(leases.view(at(2)).len(), 2);
        assert!(leases.renew(one, at(3)));
        assert_eq!(leases.expire(at(4)), [two]);
        assert!(!leases.renew(two, at(4)));
        assert!(leases.ran_out_once(two) && !leases.ran_out_once(one));
        leases.extend_all(at(100));
        assert!(leases.expire(at(103)).is_empty());
        leases.remove(one);
        assert!(leases.view(at(103)).is_empty());
    }
}
