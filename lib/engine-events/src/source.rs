//! The numbers of one publisher's messages: what is next, what is missing, when it started anew.
//!
//! Pure: it is told of connections, messages and answers of the replay socket, and says what to
//! do. A publisher numbers its messages from 0 and keeps the last ones for replay. On one
//! connection numbers only grow; what is dropped on the way shows as a gap.
//!
//! Invariants
//! - Between two resets, each number is delivered at most once, in order, and every number up to
//!   the newest one is either delivered or told as lost.
//! - With a replay socket that answers, messages of two lives of a publisher never mix: on each
//!   new connection the last message delivered is asked for again and compared. Without one, a
//!   number that goes back is the only sign; a publisher that starts anew and is first heard at
//!   exactly the number expected is not noticed.
//! - What waits for a replay is bounded in messages and in bytes.

#[cfg(test)]
mod tests;

use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::VecDeque;
use xxhash_rust::xxh3::xxh3_64;

/// The number that ends a replay's answers, and that no message has.
pub const END_OF_REPLAY: u64 = u64::MAX;

/// Messages that wait while a replay runs: 40 seconds of an engine that publishes each of a
/// hundred steps per second. What exceeds it is asked for again.
const MAX_PENDING_MESSAGES: usize = 4096;

/// Bytes of messages that wait while a replay runs.
const MAX_PENDING_BYTES: usize = 64 * 1024 * 1024;

/// Messages whose digests are kept to tell a repeated message from a new life. Sockets repeat
/// nothing; relays repeat the last few.
const REMEMBERED: usize = 64;

/// Messages of one replay after which another one makes sure that they were all: a publisher drops
/// what does not fit its socket without a word, a thousand messages by default.
const LONG_REPLAY: u64 = 500;

/// Replays one after the other for one gap. A publisher drops answers above its socket's mark (a
/// thousand by default), the end among them, and keeps ten thousand messages by default, so that
/// a dozen bring everything.
const MAX_REPLAYS: u32 = 64;

/// What to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Hand on a message.
    Deliver {
        /// Its number.
        sequence: u64,
        /// Its payload.
        payload: Bytes,
        /// It comes out of a replay, or after one: many come at once, and the publisher waits.
        catching_up: bool,
    },
    /// Tell that messages from `first` on, `count` of them, will never come.
    Lost {
        /// Number of the first one.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Tell that a new life of the publisher began.
    Reset,
    /// Ask for the messages from this number on. An earlier request that still runs is void.
    Replay {
        /// The number.
        from: u64,
    },
}

/// The state of one publisher.
#[derive(Debug)]
pub struct Source {
    has_replay: bool,
    /// The number that is delivered next.
    next: u64,
    /// The newest live number on this connection.
    last_live: Option<u64>,
    /// A replay has told on this connection what this life of the publisher sent: live messages
    /// below `next` are late copies.
    covered: bool,
    /// Numbers and digests of the last messages delivered.
    recent: VecDeque<(u64, u64)>,
    replay: Option<Replay>,
    /// Replays since the last message that came live and in order.
    replays: u32,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
}

/// A replay that runs.
#[derive(Debug, Default)]
struct Replay {
    /// The message that shows whether this is the same life, until it came.
    proof: Option<(u64, u64)>,
    /// An answer came.
    answered: bool,
    /// Messages that came and were missing.
    brought: u64,
    /// The newest live number when it was asked for. What is missing below it, and was not
    /// answered, will not be answered at all.
    heard: Option<u64>,
    /// An answer is missing between others: they come again.
    hole: bool,
}

#[derive(Debug)]
struct Pending {
    sequence: u64,
    digest: u64,
    payload: Bytes,
}

impl Source {
    /// A publisher of which nothing is known yet.
    pub fn new(has_replay: bool) -> Self {
        Self {
            has_replay,
            next: 0,
            last_live: None,
            covered: false,
            recent: VecDeque::new(),
            replay: None,
            replays: 0,
            pending: VecDeque::new(),
            pending_bytes: 0,
        }
    }

    /// A connection to the publisher is there; the one before, if any, is gone, and a replay that
    /// ran is void.
    pub fn connected(&mut self, steps: &mut Vec<Step>) {
        self.last_live = None;
        self.covered = false;
        self.replay = None;
        self.replays = 0;
        self.clear_pending();
        if self.has_replay {
            self.begin_replay(self.recent.back().copied(), steps);
        }
    }

    /// A message came over the connection.
    pub fn live(&mut self, sequence: u64, payload: Bytes, steps: &mut Vec<Step>) {
        let digest = xxh3_64(&payload);
        let message = Pending {
            sequence,
            digest,
            payload,
        };
        if self.last_live.is_some_and(|last| sequence <= last) {
            if self.is_repeated(sequence, digest) {
                return;
            }
            self.clear_pending();
            self.begin_life(steps);
        }
        self.last_live = Some(sequence);
        if self.replay.is_some() {
            self.park(&message);
            return;
        }
        self.follow(message, steps);
    }

    /// A message came in answer to the running replay.
    pub fn replayed(&mut self, sequence: u64, payload: Bytes, steps: &mut Vec<Step>) {
        let digest = xxh3_64(&payload);
        let Some(replay) = &mut self.replay else {
            return;
        };
        if let Some((number, proof)) = replay.proof {
            if sequence == number && digest == proof {
                replay.proof = None;
                replay.answered = true;
                self.covered = true;
            } else if sequence >= number {
                // Another message under that number, or a publisher that moved on too far to be
                // told from another one.
                self.begin_life(steps);
            }
            return;
        }
        let answered = std::mem::replace(&mut replay.answered, true);
        match sequence.cmp(&self.next) {
            Ordering::Less => return,
            Ordering::Equal => {}
            // The first answer is the oldest that the publisher keeps.
            Ordering::Greater if answered => replay.hole = true,
            Ordering::Greater => self.lose_until(sequence, steps),
        }
        if let Some(replay) = &mut self.replay
            && !replay.hole
        {
            replay.brought += 1;
            self.covered = true;
            let message = Pending {
                sequence,
                digest,
                payload,
            };
            self.deliver(message, true, steps);
        }
    }

    /// The running replay ended: `complete` if the publisher said so, else it broke off.
    pub fn replay_ended(&mut self, complete: bool, steps: &mut Vec<Step>) {
        let Some(replay) = self.replay.take() else {
            return;
        };
        if complete {
            if replay.proof.is_some() {
                // It has nothing as new as what was delivered: it started anew.
                self.begin_life(steps);
                return;
            }
            self.covered = true;
        }
        let may_ask = self.replays < MAX_REPLAYS;
        let cut_short = !complete && replay.brought > 0;
        if may_ask && (cut_short || replay.brought >= LONG_REPLAY) {
            self.begin_replay(None, steps);
            return;
        }
        let may_ask = may_ask && complete;
        let again = |number| may_ask && (replay.brought > 0 || Some(number) > replay.heard);
        while let Some(message) = self.pending.pop_front() {
            self.pending_bytes -= message.payload.len();
            match message.sequence.cmp(&self.next) {
                Ordering::Less if self.covered => continue,
                Ordering::Less => self.forget_life(steps),
                Ordering::Equal => {}
                Ordering::Greater if again(message.sequence) => {
                    self.pending_bytes += message.payload.len();
                    self.pending.push_front(message);
                    self.begin_replay(None, steps);
                    return;
                }
                Ordering::Greater => {}
            }
            self.lose_until(message.sequence, steps);
            self.deliver(message, true, steps);
        }
        // What did not fit while the replay ran.
        if let Some(last) = self.last_live
            && self.next <= last
        {
            if again(last) {
                self.begin_replay(None, steps);
            } else {
                self.lose_until(last + 1, steps);
            }
        }
    }

    /// The number that is delivered next.
    pub fn next(&self) -> u64 {
        self.next
    }

    fn follow(&mut self, message: Pending, steps: &mut Vec<Step>) {
        match message.sequence.cmp(&self.next) {
            Ordering::Less if self.covered => return,
            Ordering::Less => {
                self.begin_life(steps);
                if self.replay.is_some() {
                    self.park(&message);
                    return;
                }
            }
            Ordering::Equal => self.replays = 0,
            Ordering::Greater if self.has_replay && self.replays < MAX_REPLAYS => {
                self.park(&message);
                self.begin_replay(None, steps);
                return;
            }
            Ordering::Greater => {}
        }
        self.lose_until(message.sequence, steps);
        self.deliver(message, false, steps);
    }

    fn deliver(&mut self, message: Pending, catching_up: bool, steps: &mut Vec<Step>) {
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((message.sequence, message.digest));
        self.next = message.sequence.saturating_add(1);
        steps.push(Step::Deliver {
            sequence: message.sequence,
            payload: message.payload,
            catching_up,
        });
    }

    /// Tells the numbers from the next one up to `until` as lost, if there are any.
    fn lose_until(&mut self, until: u64, steps: &mut Vec<Step>) {
        if until > self.next {
            steps.push(Step::Lost {
                first: self.next,
                count: until - self.next,
            });
            self.next = until;
        }
    }

    /// Numbers start from 0 again.
    fn forget_life(&mut self, steps: &mut Vec<Step>) {
        if self.next > 0 {
            steps.push(Step::Reset);
        }
        self.next = 0;
        self.covered = false;
        self.recent.clear();
    }

    /// Like [`Self::forget_life`], and asks for what the new life sent so far.
    fn begin_life(&mut self, steps: &mut Vec<Step>) {
        self.forget_life(steps);
        self.replay = None;
        if self.has_replay {
            self.begin_replay(None, steps);
        }
    }

    fn begin_replay(&mut self, proof: Option<(u64, u64)>, steps: &mut Vec<Step>) {
        self.replays += 1;
        self.replay = Some(Replay {
            proof,
            heard: self.last_live,
            ..Replay::default()
        });
        let from = proof.map_or(self.next, |(number, _)| number);
        steps.push(Step::Replay { from });
    }

    fn is_repeated(&self, sequence: u64, digest: u64) -> bool {
        let pending = self.pending.iter().rev().take(REMEMBERED);
        self.recent.contains(&(sequence, digest))
            || pending
                .map(|message| (message.sequence, message.digest))
                .any(|message| message == (sequence, digest))
    }

    /// Keeps a message until the replay ended. One that does not fit is dropped: its number is
    /// above `next`, so that it is missed when the replay ended.
    fn park(&mut self, message: &Pending) {
        let bytes = self.pending_bytes + message.payload.len();
        if self.pending.len() < MAX_PENDING_MESSAGES && bytes <= MAX_PENDING_BYTES {
            self.pending_bytes = bytes;
            // A copy: what arrived is a part of a larger buffer, which would be kept with it.
            let payload = Bytes::copy_from_slice(&message.payload);
            self.pending.push_back(Pending {
                payload,
                ..*message
            });
        }
    }

    fn clear_pending(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
    }
}
