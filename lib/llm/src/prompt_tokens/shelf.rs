//! What is kept: pieces of text with their tokens, in chains from the beginning of a text, the
//! least recently used given up first.
//!
//! Invariants
//! - A piece is found only behind the very pieces that it was put behind: by the number of its
//!   predecessor, and numbers are not used twice.
//! - The sum of sizes never exceeds the bound.
//! - A piece was used no later than its predecessor, so that chains are given up from their ends.
//!
//! A hash only says where to look. Whoever takes a piece compares its text: see
//! [`Piece::text`].

use dynamo_protocols::engine::TokenId;
use std::collections::HashMap;
use std::sync::Arc;

/// What a piece takes beside text and tokens: its place in map and list, and what the allocator
/// puts around its parts.
const OVERHEAD_BYTES: usize = 256;

/// Which part of the bound one text may take: it must not drive out all others.
const LARGEST_SHARE: usize = 4;

/// A part of a text with its tokens.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) text: Box<str>,
    pub(super) ids: Box<[TokenId]>,
}

/// A piece and the hash of its text.
pub(super) type Hashed = (u64, Arc<Piece>);

/// Where a piece is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    /// Number of the piece before it, or of the tokenizer.
    behind: u64,
    hash: u64,
}

/// A kept piece. Slots form a ring by age: `newer` of the newest is the oldest.
#[derive(Debug)]
struct Slot {
    key: Key,
    number: u64,
    piece: Arc<Piece>,
    newer: usize,
    older: usize,
}

/// All kept pieces.
#[derive(Debug)]
pub(super) struct Shelf {
    bound: usize,
    bytes: usize,
    /// The last number given out.
    numbers: u64,
    places: HashMap<Key, usize>,
    slots: Vec<Slot>,
    newest: usize,
}

impl Piece {
    /// What it counts against the bound.
    pub(super) fn size(&self) -> usize {
        self.text.len() + size_of_val(&*self.ids) + OVERHEAD_BYTES
    }
}

impl Shelf {
    /// Keeps nothing yet, and never more than `bound` bytes.
    pub(super) fn new(bound: usize) -> Self {
        Self {
            bound,
            bytes: 0,
            numbers: 0,
            places: HashMap::new(),
            slots: Vec::new(),
            newest: 0,
        }
    }

    /// A number for another tokenizer: no piece of any other is found behind it.
    pub(super) fn root(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The pieces behind `root` of these hashes, as far as they are kept.
    pub(super) fn find(&mut self, root: u64, hashes: impl Iterator<Item = u64>) -> Vec<Arc<Piece>> {
        let mut behind = root;
        let mut found = Vec::new();
        for hash in hashes {
            let Some(&at) = self.places.get(&Key { behind, hash }) else {
                break;
            };
            behind = self.slots[at].number;
            found.push(at);
        }
        self.touch(&found);
        found
            .into_iter()
            .map(|at| Arc::clone(&self.slots[at].piece))
            .collect()
    }

    /// Keeps a chain of pieces, from the first on, as far as its share of the bound goes.
    pub(super) fn keep(&mut self, root: u64, chain: &[Hashed]) {
        let mut behind = root;
        let mut at = Vec::with_capacity(chain.len());
        let mut share = self.bound / LARGEST_SHARE;
        for (hash, piece) in chain {
            let hash = *hash;
            let Some(&known) = self.places.get(&Key { behind, hash }) else {
                break;
            };
            if self.slots[known].piece.text != piece.text {
                // Another text of the same hash: what is behind it is not ours.
                return;
            }
            behind = self.slots[known].number;
            share = share.saturating_sub(piece.size());
            at.push(known);
        }
        let mut new = 0;
        let missing = chain[at.len()..].iter().take_while(|(_, piece)| {
            new += piece.size();
            new <= share
        });
        let missing: Vec<&Hashed> = missing.collect();
        let size = missing.iter().map(|(_, piece)| piece.size()).sum();
        // Room is made from the oldest on: what was walked over must not be among it.
        self.touch(&at);
        self.make_room(size, &mut at);
        for (hash, piece) in missing {
            let hash = *hash;
            let added = self.add(Key { behind, hash }, Arc::clone(piece));
            behind = self.slots[added].number;
            at.push(added);
        }
        self.touch(&at);
    }

    /// Gives up the oldest until there is room. Says in `held`, which are the newest, where those
    /// are then.
    fn make_room(&mut self, size: usize, held: &mut [usize]) {
        while self.bytes + size > self.bound && self.slots.len() > held.len() {
            let oldest = self.slots[self.newest].newer;
            let moved = self.remove(oldest);
            if let Some(at) = held.iter_mut().find(|at| **at == moved) {
                *at = oldest;
            }
        }
    }

    fn add(&mut self, key: Key, piece: Arc<Piece>) -> usize {
        self.numbers += 1;
        self.bytes += piece.size();
        let at = self.slots.len();
        self.places.insert(key, at);
        self.slots.push(Slot {
            key,
            number: self.numbers,
            piece,
            newer: at,
            older: at,
        });
        self.link(at);
        at
    }

    /// Removes a slot and fills its place with the last one. Answers where that was.
    fn remove(&mut self, at: usize) -> usize {
        self.unlink(at);
        let gone = self.slots.swap_remove(at);
        self.places.remove(&gone.key);
        self.bytes -= gone.piece.size();
        let moved = self.slots.len();
        if at < moved {
            let Slot {
                key, newer, older, ..
            } = self.slots[at];
            self.places.insert(key, at);
            // Alone in the ring, it is its own neighbour.
            let (newer, older) = match newer == moved {
                true => (at, at),
                false => (newer, older),
            };
            self.slots[newer].older = at;
            self.slots[older].newer = at;
            if self.newest == moved {
                self.newest = at;
            }
        }
        moved
    }

    /// Marks as used, the first last.
    fn touch(&mut self, chain: &[usize]) {
        for &at in chain.iter().rev() {
            self.unlink(at);
            self.link(at);
        }
    }

    fn unlink(&mut self, at: usize) {
        let Slot { newer, older, .. } = self.slots[at];
        self.slots[newer].older = older;
        self.slots[older].newer = newer;
        if self.newest == at {
            self.newest = older;
        }
    }

    /// Puts a slot that is in no ring in as the newest.
    fn link(&mut self, at: usize) {
        if self.slots.len() == 1 {
            self.newest = at;
        }
        let older = self.newest;
        let newer = match older == at {
            true => at,
            false => self.slots[older].newer,
        };
        self.slots[at].older = older;
        self.slots[at].newer = newer;
        self.slots[newer].older = at;
        self.slots[older].newer = at;
        self.newest = at;
    }
}

#[cfg(test)]
mod tests;
