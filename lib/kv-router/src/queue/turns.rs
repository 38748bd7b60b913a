//! Whose turn it is among replicas of a router that all have requests waiting.
//!
//! Each tells the others which request it would let go next, and what it lets go. Where workers
//! have room for one, only the replica with the least virtual time lets one go, so that what one
//! worker has room for is not sent by all of them; where several have room, as many replicas do.
//! Who could go and waits in vain goes after [`PATIENCE`] and takes no more notice of those who
//! held it up until they move.

use super::Head;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long room is left to a replica before this one: some times what its news take.
pub(super) const PATIENCE: Duration = Duration::from_millis(10);

/// Replicas whose heads are known: far more than share their workers anywhere.
const MAX_REPLICAS: usize = 1_024;

/// A request that was let go, as other replicas are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// Hash of the tenant's name.
    pub tenant: u64,
    /// Level of its request.
    pub strict_priority: u32,
    /// The tenant's virtual time before.
    pub time: u64,
    /// What that time moves on by.
    pub tokens: u64,
}

#[derive(Debug)]
struct Other {
    head: Head,
    /// It did not go when it was its turn.
    is_passed: bool,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Turns {
    others: BTreeMap<u64, Other>,
    /// Since when this replica could go and leaves it to others.
    held_since: Option<Duration>,
}

impl Turns {
    /// What another replica says of its first waiting request.
    pub(super) fn hear(&mut self, origin: u64, head: Option<Head>) {
        match head {
            None => {
                self.others.remove(&origin);
            }
            Some(head) if self.others.len() < MAX_REPLICAS || self.others.contains_key(&origin) => {
                let is_passed = false;
                self.others.insert(origin, Other { head, is_passed });
            }
            Some(_) => return,
        }
        self.held_since = None;
    }

    /// Whether requests wait elsewhere that would have gone if they could.
    pub(super) fn others_wait(&self) -> bool {
        self.others.values().any(|other| !other.is_passed)
    }

    /// The virtual time from which a tenant starts at a level.
    pub(super) fn floor(&self, strict_priority: u32) -> u64 {
        let heads = self.others.values().map(|other| other.head);
        let of_level = heads.filter(|head| head.strict_priority == strict_priority);
        of_level.map(|head| head.time).min().unwrap_or(0)
    }

    /// Whether this replica is to let its request `own` go, for which so many workers have room.
    pub(super) fn take(&mut self, own: Head, room: u32, now: Duration) -> bool {
        let order = |head: &Head| (Reverse(head.strict_priority), head.time, head.arrived);
        let precedes = |other: &Other| !other.is_passed && order(&other.head) < order(&own);
        let before = self.others.values().filter(|it| precedes(it)).count();
        if before >= usize::try_from(room).unwrap_or(usize::MAX) {
            let since = *self.held_since.get_or_insert(now);
            if now < since + PATIENCE {
                return false;
            }
            for other in self.others.values_mut() {
                other.is_passed |= precedes(other);
            }
        }
        self.held_since = None;
        true
    }

    /// Nothing could go.
    pub(super) fn rest(&mut self) {
        self.held_since = None;
    }

    /// When this replica goes in any case.
    pub(super) fn held_until(&self) -> Option<Duration> {
        Some(self.held_since? + PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn head(strict_priority: u32, time: u64, arrived: u64) -> Head {
        Head {
            strict_priority,
            time,
            arrived: Duration::from_secs(arrived),
        }
    }

    #[test]
    fn the_one_that_was_served_least_goes() {
        let mut turns = Turns::default();
        assert!(turns.take(head(0, 900, 3), 1, AT_ONCE));
        turns.hear(2, Some(head(0, 500, 3)));
        assert!(!turns.take(head(0, 501, 1), 1, AT_ONCE));
        assert!(!turns.take(head(0, 500, 4), 1, AT_ONCE), "it came later");
        assert!(turns.take(head(0, 500, 2), 1, AT_ONCE));
        assert!(turns.take(head(1, 900, 9), 1, AT_ONCE));
        turns.hear(3, Some(head(2, 90_000, 5)));
        assert!(!turns.take(head(1, 900, 1), 1, AT_ONCE));
        let floors = [0, 1, 2].map(|level| turns.floor(level));
        assert_eq!(floors, [500, 0, 90_000]);
        turns.hear(3, None);
        turns.hear(2, None);
        assert!(turns.take(head(0, 900, 9), 1, AT_ONCE));
        assert!(!turns.others_wait());
    }

    #[test]
    fn as_many_go_as_there_is_room_for() {
        let mut turns = Turns::default();
        turns.hear(2, Some(head(0, 1, 1)));
        turns.hear(3, Some(head(0, 2, 1)));
        turns.hear(4, Some(head(0, 9, 1)));
        assert!(!turns.take(head(0, 5, 1), 2, AT_ONCE));
        assert!(turns.take(head(0, 5, 1), 3, AT_ONCE));
    }

    #[test]
    fn who_does_not_go_when_it_could_is_waited_for_once() {
        let mut turns = Turns::default();
        turns.hear(2, Some(head(0, 0, 1)));
        assert!(!turns.take(head(0, 900, 1), 1, AT_ONCE));
        assert_eq!(turns.held_until(), Some(PATIENCE));
        // Waiting for room is not waiting for others.
        turns.rest();
        assert_eq!(turns.held_until(), None);
        assert!(!turns.take(head(0, 900, 1), 1, PATIENCE));
        assert!(turns.take(head(0, 900, 1), 1, PATIENCE * 2));
        assert!(turns.take(head(0, 950, 1), 1, PATIENCE * 2));
        assert!(!turns.others_wait());
        turns.hear(2, Some(head(0, 100, 2)));
        assert!(!turns.take(head(0, 950, 1), 1, PATIENCE * 2));
    }
}
