//! The caller's check of positions. Pure.
//!
//! Invariant: what is accepted is contiguous from the start position and each position is
//! accepted once. What the server sends twice is dropped; what it left out ends the stream.

use dynamo_protocols::{ErrorCode, RequestError};

/// Follows the positions of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionTracker {
    next: u64,
}

impl PositionTracker {
    /// A stream whose first item has this position.
    pub fn new(start: u64) -> Self {
        Self { next: start }
    }

    /// Position of the item that comes next.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Judges an item that covers `positions` from `position` on: `true` to take it, `false` to
    /// drop it as a duplicate, an error if something before it is missing or it overlaps with
    /// what came only in part.
    pub fn accept(&mut self, position: u64, positions: u32) -> Result<bool, RequestError> {
        let end = position.saturating_add(u64::from(positions));
        if position == self.next {
            self.next = end;
            return Ok(true);
        }
        if end <= self.next {
            return Ok(false);
        }
        Err(RequestError::new(
            ErrorCode::WorkerProtocol,
            format!(
                "the worker's stream has a gap: expected position {}, got {position} to {end}; \
                 send the request again",
                self.next
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_item_without_positions_passes_where_it_belongs() {
        let mut tracker = PositionTracker::new(5);
        assert_eq!(tracker.accept(5, 0), Ok(true));
        assert_eq!(tracker.accept(5, 1), Ok(true));
        assert_eq!(tracker.accept(5, 0), Ok(false));
    }

    #[test]
    fn a_gap_and_a_partial_overlap_end_the_stream() {
        let mut tracker = PositionTracker::new(0);
        assert_eq!(
            tracker.accept(1, 1).unwrap_err().code,
            ErrorCode::WorkerProtocol
        );
        assert_eq!(tracker.accept(0, 3), Ok(true));
        assert_eq!(
            tracker.accept(2, 2).unwrap_err().code,
            ErrorCode::WorkerProtocol
        );
    }

    proptest! {
        #[test]
        fn repeated_and_late_items_change_nothing(
            lengths in prop::collection::vec(1_u32..5, 1..30),
            repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
            start in 0_u64..1000,
        ) {
            let mut items = Vec::new();
            let mut position = start;
            for length in lengths {
                items.push((position, length));
                position += u64::from(length);
            }
            let mut tracker = PositionTracker::new(start);
            let mut repeats = repeats.into_iter();
            for (sent, (position, length)) in items.iter().enumerate() {
                prop_assert_eq!(tracker.accept(*position, *length), Ok(true));
                for repeat in repeats.by_ref().take(2) {
                    let (position, length) = items[repeat.index(sent + 1)];
                    prop_assert_eq!(tracker.accept(position, length), Ok(false));
                }
            }
            prop_assert_eq!(tracker.next(), position);
        }
    }
}
