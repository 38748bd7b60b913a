//! Runs give back the memory of their dead blocks.

use super::Index;
use super::run::Run;
use super::table::Place;
use std::ops::Range;

impl Index {
    /// Frees a run that nobody holds anything of, and compacts one of which over a third
    /// is dead: what is copied is at most twice what died since the last time.
    pub(super) fn settle(&mut self, number: u32) {
        let Some(extent) = self.loose_extent(number) else {
            return;
        };
        if extent.is_empty() {
            self.runs.take(number);
            return;
        }
        self.runs.edit(number, |run| run.trim(&extent));
        let stretches = usize::from(self.runs.get(number).live);
        if self.loose_extent(number).is_some() && self.runs.room() >= stretches {
            self.scatter(number);
        }
    }

    /// Where the live blocks of a run lie if over a third of it is dead.
    fn loose_extent(&self, number: u32) -> Option<Range<u16>> {
        let run = self.runs.get(number);
        if run.live > 0 && u32::from(run.live) * 3 >= u32::from(run.len()) * 2 {
            return None;
        }
        Some(run.holders.extent().unwrap_or_default())
    }

    /// Gives each live stretch of a run a run of its own.
    fn scatter(&mut self, number: u32) {
        let old = self.runs.edit(number, std::mem::take);
        let mut start = old.first();
        while let Some(next) = old.holders.next_live(start) {
            let end = next + old.live_stretch(next, old.end() - next);
            self.split_off(&old, number, next..end);
            start = end;
        }
        // Only now, so that no new run has the number that places still name.
        self.runs.take(number);
    }

    fn split_off(&mut self, old: &Run, number: u32, stretch: Range<u16>) {
        let blocks: Vec<_> = old.blocks(stretch.clone()).collect();
        let mut run = Run::new(old.parent_of(stretch.start), &blocks);
        run.live = stretch.len() as u16;
        run.holders = old.holders.within(stretch.clone());
        let to_number = self.runs.add(run);
        for (offset, block) in stretch.clone().zip(&blocks) {
            let from = Place {
                run: number,
                offset,
            };
            let to = Place {
                run: to_number,
                offset: offset - stretch.start,
            };
            self.table.relocate(block.sequence_hash, from, to);
        }
    }
}
