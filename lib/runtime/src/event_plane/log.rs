//! The events that a publisher remembers, for subscribers who were away for a moment.
//!
//! Bounded in number and in bytes: the oldest go first. Pure: no clock, no lock, no I/O.

use bytes::Bytes;
use std::collections::VecDeque;

/// Events remembered: some seconds of a busy worker, longer than a reconnect takes. Who misses more
/// gets a snapshot.
pub const MAX_EVENTS: usize = 512;

/// Bytes remembered: what a process that simulates thousands of workers can spare for each.
pub const MAX_BYTES: usize = 256 * 1024;

/// Where a subscriber stands in a publisher's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// Which life of the publisher the number is of.
    pub epoch: u64,
    /// The event that it wants next, from 0.
    pub next: u64,
}

/// What there is for a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// The events from its cursor on, as many as were asked for, and where it stands after them.
    Events(Vec<Bytes>, Cursor),
    /// It missed events that are forgotten, or it never knew this epoch.
    Missed,
}

/// The latest events of a publisher.
#[derive(Debug)]
pub struct EventLog {
    end: Cursor,
    events: VecDeque<Bytes>,
    bytes: usize,
}

impl EventLog {
    /// No events yet, in an epoch that no earlier life of the publisher had.
    pub fn new(epoch: u64) -> Self {
        Self {
            end: Cursor { epoch, next: 0 },
            events: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Where a subscriber stands who knows everything.
    pub fn end(&self) -> Cursor {
        self.end
    }

    /// Remembers an event, and forgets the oldest beyond the bounds.
    pub fn append(&mut self, event: Bytes) {
        self.bytes += event.len();
        self.events.push_back(event);
        self.end.next += 1;
        while self.events.len() > MAX_EVENTS || self.bytes > MAX_BYTES {
            let Some(forgotten) = self.events.pop_front() else {
                break;
            };
            self.bytes -= forgotten.len();
        }
    }

    /// The events from a cursor on: until they have `max_bytes`, and at least one if there is one.
    pub fn since(&self, cursor: Cursor, max_bytes: usize) -> Since {
        let behind = self.end.next.checked_sub(cursor.next);
        let behind = behind.and_then(|behind| usize::try_from(behind).ok());
        let Some(behind) =
            behind.filter(|behind| cursor.epoch == self.end.epoch && *behind <= self.events.len())
        else {
            return Since::Missed;
        };
        let mut bytes = 0;
        let events: Vec<Bytes> = self
            .events
            .range(self.events.len() - behind..)
            .take_while(|event| {
                let fits = bytes == 0 || bytes + event.len() <= max_bytes;
                bytes += event.len();
                fits
            })
            .cloned()
            .collect();
        let next = cursor.next + events.len() as u64;
        Since::Events(events, Cursor { next, ..cursor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(number: u64, size: usize) -> Bytes {
        let mut bytes = number.to_le_bytes().to_vec();
        bytes.resize(size.max(8), 0);
        bytes.into()
    }

    #[test]
    fn another_epoch_is_missed() {
        let mut log = EventLog::new(7);
        log.append(event(0, 8));
        assert_eq!(log.since(Cursor { epoch: 8, next: 0 }, 100), Since::Missed);
        // A cursor ahead of the end is of a publisher that lost its memory.
        assert_eq!(log.since(Cursor { epoch: 7, next: 2 }, 100), Since::Missed);
    }

    #[test]
    fn an_event_larger_than_the_bounds_is_forgotten_and_leaves_a_word_of_it() {
        let mut log = EventLog::new(0);
        log.append(event(0, MAX_BYTES + 1));
        assert_eq!(log.since(Cursor { epoch: 0, next: 0 }, 100), Since::Missed);
        assert_eq!(log.since(log.end(), 100), Since::Events(vec![], log.end()));
    }

    proptest! {
        #[test]
        fn whoever_reads_gets_each_event_once_or_hears_that_some_are_missed(
            sizes in proptest::collection::vec(8_usize..MAX_BYTES / 8, 1..64),
            reads in proptest::collection::vec(any::<bool>(), 64),
            max_bytes in 0_usize..MAX_BYTES,
        ) {
            let mut log = EventLog::new(3);
            let mut cursor = log.end();
            let mut expected = 0_u64;
            for (number, (size, reads)) in sizes.iter().zip(reads).enumerate() {
                log.append(event(number as u64, *size));
                prop_assert!(log.bytes <= MAX_BYTES);
                while reads && cursor != log.end() {
                    match log.since(cursor, max_bytes) {
                        Since::Events(events, after) => {
                            prop_assert!(!events.is_empty());
                            for event in events {
                                prop_assert_eq!(&event[..8], &expected.to_le_bytes()[..]);
                                expected += 1;
                            }
                            cursor = after;
                        }
                        Since::Missed => {
                            prop_assert!(sizes[cursor.next as usize..=number].iter().sum::<usize>() > MAX_BYTES);
                            cursor = log.end();
                            expected = cursor.next;
                        }
                    }
                }
            }
        }
    }
}
