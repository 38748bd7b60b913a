//! Which worker a conversation was last served by.
//!
//! *Hard* affinity stays with that worker as long as it is there; *soft* affinity leaves it when
//! another one would be cheaper even if it had to compute the whole prompt.
//!
//! Sessions are known by a hash of their id, so that memory does not depend on what clients send.
//! Bounded twice: a session is forgotten when it rests for its time to live, and the one that
//! rests longest makes room when there are too many.

use crate::recency::Recency;
use crate::worker::WorkerKey;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// Sessions remembered: at some 64 bytes each, a few megabytes.
pub const MAX_SESSIONS: usize = 65_536;

#[derive(Debug)]
struct Binding {
    worker: WorkerKey,
    used: Duration,
}

/// See the module's description.
#[derive(Debug)]
pub struct Affinity {
    time_to_live: Duration,
    sessions: Recency<u64, Binding>,
}

impl Affinity {
    /// No session yet; each is forgotten after resting for `time_to_live`.
    pub fn new(time_to_live: Duration) -> Self {
        Self {
            time_to_live,
            sessions: Recency::default(),
        }
    }

    /// The worker that served the session last, if it has not been forgotten.
    pub fn worker(&self, session: &str, now: Duration) -> Option<WorkerKey> {
        let binding = self.sessions.get(&session_hash(session))?;
        (now < binding.used + self.time_to_live).then_some(binding.worker)
    }

    /// The session is served by `worker` from now on.
    pub fn bind(&mut self, session: &str, worker: WorkerKey, now: Duration) {
        self.insert(session_hash(session), worker, now);
    }

    /// Forgets a session that has ended.
    pub fn end(&mut self, session: &str) {
        self.end_hashed(session_hash(session));
    }

    /// What another router says of a session, unless something later is known of it.
    pub(crate) fn bind_hashed(&mut self, session: u64, worker: WorkerKey, used: Duration) {
        let known = self.sessions.get(&session);
        if known.is_none_or(|known| known.used <= used) {
            self.insert(session, worker, used);
        }
    }

    /// Forgets a session by the hash of its id.
    pub(crate) fn end_hashed(&mut self, session: u64) {
        self.sessions.remove(&session);
    }

    /// Every session by the hash of its id, with its worker and its last use, in their order.
    pub(crate) fn bindings(&self) -> impl Iterator<Item = (u64, WorkerKey, Duration)> + '_ {
        let sessions = self.sessions.iter();
        sessions.map(|(session, binding)| (*session, binding.worker, binding.used))
    }

    fn insert(&mut self, session: u64, worker: WorkerKey, used: Duration) {
        self.sessions.insert(session, Binding { worker, used });
        if self.sessions.len() > MAX_SESSIONS {
            self.sessions.pop_oldest();
        }
    }

    /// Forgets the sessions that have rested for their time to live.
    pub fn expire(&mut self, now: Duration) {
        while let Some((_, binding)) = self.sessions.oldest()
            && binding.used + self.time_to_live <= now
        {
            self.sessions.pop_oldest();
        }
    }

    /// Sessions remembered.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A session as it is remembered and told.
pub(crate) fn session_hash(session: &str) -> u64 {
    xxh3_64(session.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const TTL: Duration = Duration::from_secs(60);

    fn worker(instance: u64) -> WorkerKey {
        WorkerKey {
            instance,
            dp_rank: 0,
        }
    }

    #[test]
    fn a_session_is_remembered_from_its_last_use_on() {
        let mut affinity = Affinity::new(TTL);
        affinity.bind("a", worker(1), Duration::ZERO);
        affinity.bind("b", worker(2), Duration::ZERO);
        affinity.bind("a", worker(3), TTL / 2);
        assert_eq!(affinity.worker("b", TTL), None);
        assert_eq!(affinity.worker("a", TTL), Some(worker(3)));
        affinity.expire(TTL);
        assert_eq!(affinity.len(), 1);
        affinity.end("a");
        assert!(affinity.is_empty());
    }

    #[test]
    fn the_session_that_rests_longest_makes_room() {
        let mut affinity = Affinity::new(TTL);
        affinity.bind("first", worker(1), Duration::ZERO);
        for nth in 0..MAX_SESSIONS {
            affinity.bind(&nth.to_string(), worker(2), Duration::ZERO);
        }
        assert_eq!(affinity.len(), MAX_SESSIONS);
        assert_eq!(affinity.worker("first", Duration::ZERO), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Bind(u8, u64),
        End(u8),
        Expire,
        Rest(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u8..5, 0_u64..4).prop_map(|(session, instance)| Step::Bind(session, instance)),
            1 => (0_u8..5).prop_map(Step::End),
            1 => Just(Step::Expire),
            2 => (1_u64..70).prop_map(Step::Rest),
        ]
    }

    proptest! {
        #[test]
        fn sessions_equal_a_map_of_last_uses(steps in prop::collection::vec(step(), 0..80)) {
            let mut affinity = Affinity::new(TTL);
            let mut model: BTreeMap<u8, (u64, Duration)> = BTreeMap::new();
            let mut now = Duration::ZERO;
            for step in steps {
                match step {
                    Step::Bind(session, instance) => {
                        affinity.bind(&session.to_string(), worker(instance), now);
                        model.insert(session, (instance, now));
                    }
                    Step::End(session) => {
                        affinity.end(&session.to_string());
                        model.remove(&session);
                    }
                    Step::Expire => {
                        affinity.expire(now);
                        model.retain(|_, (_, used)| now < *used + TTL);
                        prop_assert_eq!(affinity.len(), model.len());
                    }
                    Step::Rest(seconds) => now += Duration::from_secs(seconds),
                }
                for session in 0..5 {
                    let bound = model.get(&session).filter(|(_, used)| now < *used + TTL);
                    let bound = bound.map(|(instance, _)| worker(*instance));
                    prop_assert_eq!(affinity.worker(&session.to_string(), now), bound);
                }
            }
        }
    }
}
