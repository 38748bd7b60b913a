//! What one worker holds, as events that store it again.

use super::holders::Interval;
use super::{Index, TierEvent};
use crate::worker::{Slot, Tier};
use dynamo_protocols::kv::KvEvent;
use std::collections::BTreeMap;

/// One interval of a worker: its run and itself.
type Piece = (u32, Interval);

impl Index {
    /// What a worker holds, as stored events: applied to an empty slot they restore it. Within a
    /// tier blocks come after their parents, wherever the worker holds those.
    pub fn snapshot(&self, slot: Slot) -> Vec<TierEvent> {
        if self.blocks_of(slot) == 0 {
            return Vec::new();
        }
        let pieces: Vec<Piece> = (0..self.runs.end())
            .flat_map(|number| {
                let theirs = self.runs.get(number).holders.of_slot(slot);
                theirs.iter().map(move |held| (number, *held))
            })
            .collect();
        let ordered = self.parents_first(&pieces);
        ordered
            .into_iter()
            .map(|piece| self.stored(piece))
            .collect()
    }

    /// Takes in what [`snapshot`](Self::snapshot) gave, beside what the worker holds already.
    pub fn restore(&mut self, slot: Slot, events: &[TierEvent]) {
        for TierEvent { tier, event } in events {
            self.apply(slot, *tier, event);
        }
    }

    fn parents_first(&self, pieces: &[Piece]) -> Vec<Piece> {
        let mut children: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
        for (at, piece) in pieces.iter().enumerate() {
            let parent = self.parent_piece(pieces, *piece);
            children.entry(parent).or_default().push(at);
        }
        let mut ordered = Vec::with_capacity(pieces.len());
        let mut waiting = children.remove(&None).unwrap_or_default();
        while let Some(at) = waiting.pop() {
            ordered.push(pieces[at]);
            waiting.extend(children.remove(&Some(at)).unwrap_or_default());
        }
        ordered
    }

    /// The piece of the same tier that has the block before this one. A piece is never its own
    /// ancestor, because no chain is.
    fn parent_piece(&self, pieces: &[Piece], (number, held): Piece) -> Option<usize> {
        let parent = self.runs.get(number).parent_of(held.start)?;
        let place = self.locate(parent)?;
        let key = |(number, held): &Piece| (*number, held.holder, held.end);
        let at = pieces.partition_point(|it| key(it) <= (place.run, held.holder, place.offset));
        let (number, candidate) = pieces.get(at)?;
        let has = *number == place.run
            && candidate.holder == held.holder
            && candidate.covers(place.offset);
        has.then_some(at)
    }

    fn stored(&self, (number, held): Piece) -> TierEvent {
        let run = self.runs.get(number);
        let tier: Tier = held.holder.tier();
        let event = KvEvent::Stored {
            parent: run.parent_of(held.start),
            blocks: run.blocks(held.start..held.end).collect(),
        };
        TierEvent { tier, event }
    }
}
