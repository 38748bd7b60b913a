//! The book of KV memory: how many blocks are free, cached or needed by running sequences.
//!
//! llama.cpp has no paged pool; a block here is `block_size` cells that some sequences hold
//! together. The book counts them so that llama.cpp is never asked for a cell it does not have.
//!
//! Invariants
//! - A block with no holder is free. A live holder is a running sequence, any other is parked.
//! - `live_used() <= used() <= total()`.

/// A block of the book.
pub(crate) type BlockId = u32;

/// Who holds a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A running sequence: the block cannot be taken away.
    Live,
    /// A parked prefix: the block can be evicted.
    Parked,
}

/// Holders of each block.
#[derive(Debug)]
pub(crate) struct Pool {
    holders: Vec<Holders>,
    free: Vec<BlockId>,
    live_used: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Holders {
    live: u32,
    parked: u32,
}

impl Pool {
    pub(crate) fn new(total: usize) -> Self {
        let total = BlockId::try_from(total).unwrap_or(BlockId::MAX);
        Self {
            holders: vec![Holders::default(); total as usize],
            free: (0..total).rev().collect(),
            live_used: 0,
        }
    }

    pub(crate) fn total(&self) -> usize {
        self.holders.len()
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn used(&self) -> usize {
        self.total() - self.free()
    }

    pub(crate) fn live_used(&self) -> usize {
        self.live_used
    }

    pub(crate) fn is_live(&self, block: BlockId) -> bool {
        self.holders[block as usize].live > 0
    }

    /// Takes a free block for one holder.
    pub(crate) fn allocate(&mut self, holder: Holder) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.hold(block, holder);
        Some(block)
    }

    /// Adds a holder.
    pub(crate) fn hold(&mut self, block: BlockId, holder: Holder) {
        let holders = &mut self.holders[block as usize];
        match holder {
            Holder::Live => {
                holders.live += 1;
                self.live_used += usize::from(holders.live == 1);
            }
            Holder::Parked => holders.parked += 1,
        }
    }

    /// Takes a holder away; the last one frees the block.
    pub(crate) fn release(&mut self, block: BlockId, holder: Holder) {
        let holders = &mut self.holders[block as usize];
        match holder {
            Holder::Live => {
                holders.live -= 1;
                self.live_used -= usize::from(holders.live == 0);
            }
            Holder::Parked => holders.parked -= 1,
        }
        if holders.live == 0 && holders.parked == 0 {
            self.free.push(block);
        }
    }

    /// A holder changes its kind.
    pub(crate) fn turn(&mut self, block: BlockId, to: Holder) {
        let from = match to {
            Holder::Live => Holder::Parked,
            Holder::Parked => Holder::Live,
        };
        self.hold(block, to);
        self.release(block, from);
    }
}
