//! What to do next so that etcd says what this process wishes: a state machine without I/O.
//!
//! The process's id, its lease's id and its key are one and the same number, drawn at random and
//! taken by whoever asks etcd for the lease first. So nobody else can write below that id while the
//! lease lasts, and a lease that was lost is taken again under the same id.
//!
//! # Conflicts
//!
//! An id that is taken at the first attempt is somebody else's: another is drawn. Later it is taken
//! to be our own, granted in answer to a request whose answer was lost, or not yet expired. Only if
//! the lease was lost, and another process drew the same of 2^53 numbers meanwhile, is that wrong.
//!
//! # What is wished is written, withdrawals too
//!
//! A withdrawal is a value of its own and not the absence of the key. So those who watch can tell a
//! process that withdrew, which is gone at once, from one whose lease ended in an outage.

use crate::discovery::ProcessId;
use std::time::Duration;
use tokio::time::Instant;

/// A lease is renewed when this part of its time is over: two renewals may be lost.
const RENEWALS: u32 = 3;

/// What this process holds in etcd, as far as it knows.
#[derive(Debug)]
pub(super) struct Tenancy {
    id: ProcessId,
    /// Etcd has given this process its id.
    is_confirmed: bool,
    lease: Option<Lease>,
    /// The last wish that is known to be written under the lease.
    written: Option<u64>,
}

#[derive(Debug)]
struct Lease {
    renew_at: Instant,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Ask for a lease.
    Grant,
    /// Renew the lease.
    Renew,
    /// Write the wish, unless it is there.
    Write,
    /// Nothing, until then or until there is another wish.
    Rest(Instant),
}

// === impl Tenancy ===

impl Tenancy {
    pub(super) fn new(id: ProcessId) -> Self {
        Self {
            id,
            is_confirmed: false,
            lease: None,
            written: None,
        }
    }

    pub(super) fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether there is something to give back at the end.
    pub(super) fn holds_lease(&self) -> bool {
        self.lease.is_some()
    }

    /// What to do next, when `wish` is what has to be written.
    pub(super) fn step(&self, wish: u64, now: Instant) -> Step {
        let Some(lease) = &self.lease else {
            return Step::Grant;
        };
        if lease.renew_at <= now {
            Step::Renew
        } else if self.written != Some(wish) {
            Step::Write
        } else {
            Step::Rest(lease.renew_at)
        }
    }

    /// The lease was granted, in answer to a request of `asked`.
    pub(super) fn granted(&mut self, ttl: Duration, asked: Instant) {
        self.is_confirmed = true;
        self.hold(ttl, asked);
    }

    /// There is a lease of this id already. Whether it is taken to be our own, and is to be renewed;
    /// otherwise the id is `other` from here on.
    pub(super) fn taken(&mut self, other: ProcessId, now: Instant) -> bool {
        if self.is_confirmed {
            self.lease = Some(Lease { renew_at: now });
        } else {
            self.id = other;
        }
        self.is_confirmed
    }

    /// The lease was renewed, in answer to a request of `asked`.
    pub(super) fn renewed(&mut self, ttl: Duration, asked: Instant) {
        self.hold(ttl, asked);
    }

    /// There is no such lease: it expired, or etcd forgot it.
    pub(super) fn lost(&mut self) {
        self.lease = None;
        self.written = None;
    }

    /// Etcd holds this wish.
    pub(super) fn wrote(&mut self, wish: u64) {
        self.written = Some(wish);
    }

    fn hold(&mut self, ttl: Duration, asked: Instant) {
        let renew_at = asked + ttl / RENEWALS;
        self.lease = Some(Lease { renew_at });
        // What was written may have been taken away since, by somebody's hand or by a restored
        // backup: it is looked at with each renewal.
        self.written = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(9);

    fn id(number: u64) -> ProcessId {
        ProcessId::new(number).unwrap()
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_lease_comes_first_then_the_wish_then_renewals() {
        let start = Instant::now();
        let mut tenancy = Tenancy::new(id(1));
        assert_eq!(tenancy.step(1, start), Step::Grant);
        tenancy.granted(TTL, start);
        assert_eq!(tenancy.step(1, start), Step::Write);
        tenancy.wrote(1);
        assert_eq!(tenancy.step(1, start), Step::Rest(start + seconds(3)));
        assert_eq!(tenancy.step(2, start), Step::Write);
        assert_eq!(tenancy.step(1, start + seconds(3)), Step::Renew);
        tenancy.renewed(TTL, start + seconds(3));
        assert_eq!(tenancy.step(1, start + seconds(3)), Step::Write);
    }

    #[test]
    fn a_lost_lease_is_taken_again_under_the_same_id_and_the_wish_written_again() {
        let now = Instant::now();
        let mut tenancy = Tenancy::new(id(1));
        tenancy.granted(TTL, now);
        tenancy.wrote(1);
        tenancy.lost();
        assert_eq!(tenancy.step(1, now), Step::Grant);
        assert!(tenancy.taken(id(2), now), "the answer to a grant was lost");
        assert_eq!(tenancy.step(1, now), Step::Renew);
        tenancy.renewed(TTL, now);
        assert_eq!(tenancy.step(1, now), Step::Write);
        assert_eq!(tenancy.id(), id(1));
    }

    #[test]
    fn an_id_that_somebody_has_is_left_to_them() {
        let now = Instant::now();
        let mut tenancy = Tenancy::new(id(1));
        assert!(!tenancy.taken(id(2), now));
        assert_eq!((tenancy.id(), tenancy.step(1, now)), (id(2), Step::Grant));
    }

    /// Etcd as far as a tenancy can tell: leases that end, keys that go with them or by hand.
    #[derive(Debug, Clone, Copy)]
    enum Fault {
        None,
        LeaseEnds,
        KeyVanishes,
    }

    fn faults() -> impl Strategy<Value = Vec<(Fault, bool)>> {
        let fault = prop_oneof![
            6 => Just(Fault::None),
            1 => Just(Fault::LeaseEnds),
            1 => Just(Fault::KeyVanishes),
        ];
        prop::collection::vec((fault, any::<bool>()), 0..60)
    }

    proptest! {
        /// Whatever happens, and whichever answers are lost: once quiet, etcd holds the wish.
        #[test]
        fn the_wish_is_there_once_it_is_quiet(faults in faults()) {
            let mut now = Instant::now();
            let (mut lease, mut key) = (false, None);
            let mut tenancy = Tenancy::new(id(1));
            let quiet = [(Fault::None, false); 12];
            for (n, (fault, answer_is_lost)) in (0_u64..).zip(faults.into_iter().chain(quiet)) {
                match fault {
                    Fault::None => {}
                    Fault::LeaseEnds => (lease, key) = (false, None),
                    Fault::KeyVanishes => key = None,
                }
                let wish = (n / 20).min(2);
                match tenancy.step(wish, now) {
                    Step::Grant if lease => drop(tenancy.taken(id(1), now)),
                    Step::Grant => {
                        lease = true;
                        if !answer_is_lost { tenancy.granted(TTL, now) }
                    }
                    Step::Renew if answer_is_lost => {}
                    Step::Renew if lease => tenancy.renewed(TTL, now),
                    Step::Renew => tenancy.lost(),
                    Step::Write if lease => {
                        key = Some(wish);
                        if !answer_is_lost { tenancy.wrote(wish) }
                    }
                    Step::Write => tenancy.lost(),
                    Step::Rest(until) => now = until,
                }
            }
            // A rest of the last steps may have been before the key vanished: one more renewal.
            prop_assert!(key.is_some() || !matches!(tenancy.step(2, now), Step::Rest(_)));
        }
    }
}
