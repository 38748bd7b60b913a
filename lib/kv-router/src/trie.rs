//! Block chains of requests as a trie, prefixes that they share stored once: the chains in flight
//! for the book, the chains sent before for the approximate mode.
//!
//! A sequence hash names its whole prefix. So a node is a stretch of one chain, its children are
//! found through one table by the first hash of their stretch, and where two chains part is
//! found by bisection. Each node counts, per slot, the bookings that run through it: whoever
//! holds a node holds every node above it.
//!
//! Invariants
//! - a booking ends at the end of a node; a node that nobody holds is gone
//! - a node with one child and no booking of its own end is merged with it, so that nodes stay
//!   fewer than twice the bookings
//! - what a hold adds to a slot, its release takes away, whatever the hashes are. Chains that
//!   contradict each other (only a peer that lies can make them) cost accuracy, nothing else.

use crate::worker::Slot;
use dynamo_protocols::kv::SequenceHash;
use std::collections::HashMap;

/// No node: above the first ones, and the leaf of an empty chain.
pub(crate) const ROOT: u32 = u32::MAX;

#[derive(Debug, Default)]
struct Node {
    hashes: Vec<SequenceHash>,
    /// Bookings through this node by slot, in the order of slots.
    holders: Vec<(Slot, u32)>,
    parent: u32,
    /// Bookings that end here.
    ends: u32,
    children: u32,
    /// The ids of the children, xored: with one child, its id.
    children_xor: u32,
}

/// See the module's description. What is held is called a booking, whoever the owner is.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    nodes: Vec<Node>,
    free: Vec<u32>,
    starts: HashMap<SequenceHash, u32>,
    /// Hashes stored.
    stored: u64,
}

impl Trie {
    /// Books `hashes` below the end of `leaf` for a slot. Answers the new leaf, and how many
    /// blocks the slot did not hold before.
    pub(crate) fn hold(&mut self, leaf: u32, hashes: &[SequenceHash], slot: Slot) -> (u32, u64) {
        let mut at = leaf;
        let mut rest = hashes;
        let mut added = 0;
        while let Some(first) = rest.first() {
            let Some(child) = self.child(at, *first) else {
                added += blocks(rest.len());
                at = self.add(at, rest.to_vec(), slot);
                break;
            };
            let common = common_len(&self.node(child).hashes, rest);
            at = self.split(child, common);
            if self.join(at, slot) {
                added += blocks(common);
            }
            rest = &rest[common..];
        }
        if let Some(node) = self.node_mut(at) {
            node.ends += 1;
        }
        (at, added)
    }

    /// Lengthens the chain of a booking that ends at `leaf` by one block.
    pub(crate) fn lengthen(&mut self, leaf: u32, hash: SequenceHash, slot: Slot) -> (u32, u64) {
        if let Some(node) = self.node_mut(leaf)
            && node.ends == 1
            && node.children == 0
        {
            node.hashes.push(hash);
            self.stored += 1;
            return (leaf, 1);
        }
        let longer = self.hold(leaf, &[hash], slot);
        if let Some(node) = self.node_mut(leaf) {
            node.ends -= 1;
            self.merge(leaf);
        }
        longer
    }

    /// Ends a booking; answers how many blocks the slot holds no more.
    pub(crate) fn release(&mut self, leaf: u32, slot: Slot) -> u64 {
        let Some(node) = self.node_mut(leaf) else {
            return 0;
        };
        node.ends -= 1;
        let mut removed = 0;
        let mut at = leaf;
        let mut lowest = ROOT;
        while at != ROOT {
            let parent = self.node(at).parent;
            if self.leave(at, slot) {
                removed += blocks(self.node(at).hashes.len());
            }
            if self.node(at).holders.is_empty() {
                self.remove(at);
            } else if lowest == ROOT {
                lowest = at;
            }
            at = parent;
        }
        self.merge(lowest);
        removed
    }

    /// Walks down along `hashes`; tells for each node reached who holds it and to which length
    /// of the chain. Lengths grow from call to call.
    pub(crate) fn walk(&self, hashes: &[SequenceHash], mut visit: impl FnMut(&[(Slot, u32)], u32)) {
        let mut at = ROOT;
        let mut depth = 0;
        while let Some(first) = hashes.get(depth) {
            let Some(child) = self.child(at, *first) else {
                break;
            };
            let node = self.node(child);
            let common = common_len(&node.hashes, &hashes[depth..]);
            depth += common;
            visit(&node.holders, u32::try_from(depth).unwrap_or(u32::MAX));
            if common < node.hashes.len() {
                break;
            }
            at = child;
        }
    }

    /// Blocks at the end of a chain that its slot holds through this booking alone.
    pub(crate) fn exclusive(&self, leaf: u32, slot: Slot) -> u64 {
        let mut at = leaf;
        let mut sum = 0;
        while at != ROOT {
            let node = self.node(at);
            if node.count(slot) != 1 {
                break;
            }
            sum += blocks(node.hashes.len());
            at = node.parent;
        }
        sum
    }

    /// The chain that ends at `leaf`.
    pub(crate) fn chain(&self, leaf: u32) -> Vec<SequenceHash> {
        let mut path = Vec::new();
        let mut at = leaf;
        while at != ROOT {
            path.push(at);
            at = self.node(at).parent;
        }
        let nodes = path.iter().rev().map(|id| self.node(*id));
        nodes.flat_map(|node| node.hashes.iter().copied()).collect()
    }

    /// Hashes stored: those of shared prefixes once.
    pub(crate) fn stored(&self) -> u64 {
        self.stored
    }

    /// Nodes in use.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn node(&self, id: u32) -> &Node {
        &self.nodes[index(id)]
    }

    /// `None` for [`ROOT`].
    fn node_mut(&mut self, id: u32) -> Option<&mut Node> {
        self.nodes.get_mut(index(id))
    }

    fn child(&self, parent: u32, first: SequenceHash) -> Option<u32> {
        let id = *self.starts.get(&first)?;
        (self.node(id).parent == parent).then_some(id)
    }

    fn join(&mut self, id: u32, slot: Slot) -> bool {
        let holders = &mut self.nodes[index(id)].holders;
        match holders.binary_search_by_key(&slot, |(held, _)| *held) {
            Ok(at) => {
                holders[at].1 += 1;
                false
            }
            Err(at) => {
                holders.insert(at, (slot, 1));
                true
            }
        }
    }

    fn leave(&mut self, id: u32, slot: Slot) -> bool {
        let holders = &mut self.nodes[index(id)].holders;
        let Ok(at) = holders.binary_search_by_key(&slot, |(held, _)| *held) else {
            return false;
        };
        holders[at].1 -= 1;
        let gone = holders[at].1 == 0;
        if gone {
            holders.remove(at);
        }
        gone
    }

    fn place(&mut self, node: Node) -> u32 {
        if let Some(id) = self.free.pop() {
            self.nodes[index(id)] = node;
            return id;
        }
        let id = u32::try_from(self.nodes.len()).unwrap_or(ROOT);
        assert!(
            id != ROOT,
            "the bound of bookings keeps node ids in 32 bits"
        );
        self.nodes.push(node);
        id
    }

    fn add(&mut self, parent: u32, hashes: Vec<SequenceHash>, slot: Slot) -> u32 {
        let first = hashes[0];
        self.stored += blocks(hashes.len());
        let id = self.place(Node {
            hashes,
            holders: vec![(slot, 1)],
            parent,
            ..Node::default()
        });
        self.starts.insert(first, id);
        self.adopt(parent, id);
        id
    }

    fn adopt(&mut self, parent: u32, child: u32) {
        if let Some(node) = self.node_mut(parent) {
            node.children += 1;
            node.children_xor ^= child;
        }
    }

    /// Parts a node after its first `head` blocks; answers the node that holds those. The tail
    /// keeps the id, because bookings know their leaf by it.
    fn split(&mut self, id: u32, head: usize) -> u32 {
        let node = &mut self.nodes[index(id)];
        if head == node.hashes.len() {
            return id;
        }
        let tail = node.hashes.split_off(head);
        let head = Node {
            hashes: std::mem::replace(&mut node.hashes, tail),
            holders: node.holders.clone(),
            parent: node.parent,
            ends: 0,
            children: 1,
            children_xor: id,
        };
        let (parent, first) = (head.parent, head.hashes[0]);
        let tail_first = node.hashes[0];
        let head = self.place(head);
        self.nodes[index(id)].parent = head;
        self.starts.insert(first, head);
        self.starts.insert(tail_first, id);
        if let Some(node) = self.node_mut(parent) {
            node.children_xor ^= id ^ head;
        }
        head
    }

    /// Joins a node with its only child, if no booking ends between them.
    fn merge(&mut self, id: u32) {
        let Some(node) = self.node_mut(id) else {
            return;
        };
        if node.ends != 0 || node.children != 1 {
            return;
        }
        let head = std::mem::take(node);
        let child = head.children_xor;
        let tail = std::mem::take(&mut self.nodes[index(child)].hashes);
        self.forget_start(&tail, child);
        self.starts.insert(head.hashes[0], child);
        let node = &mut self.nodes[index(child)];
        node.hashes = head.hashes;
        node.hashes.extend_from_slice(&tail);
        node.parent = head.parent;
        if let Some(parent) = self.node_mut(head.parent) {
            parent.children_xor ^= id ^ child;
        }
        self.free.push(id);
    }

    fn remove(&mut self, id: u32) {
        let node = std::mem::take(&mut self.nodes[index(id)]);
        self.stored -= blocks(node.hashes.len());
        self.forget_start(&node.hashes, id);
        if let Some(parent) = self.node_mut(node.parent) {
            parent.children -= 1;
            parent.children_xor ^= id;
        }
        self.free.push(id);
    }

    fn forget_start(&mut self, hashes: &[SequenceHash], id: u32) {
        if let Some(first) = hashes.first()
            && self.starts.get(first) == Some(&id)
        {
            self.starts.remove(first);
        }
    }
}

impl Node {
    fn count(&self, slot: Slot) -> u32 {
        let found = self.holders.binary_search_by_key(&slot, |(held, _)| *held);
        found.map_or(0, |at| self.holders[at].1)
    }
}

/// How far two stretches that start with the same hash agree. A hash names everything before
/// it, so agreement in one place is agreement in all places before.
fn common_len(a: &[SequenceHash], b: &[SequenceHash]) -> usize {
    let len = a.len().min(b.len());
    if a[len - 1] == b[len - 1] {
        return len;
    }
    let (mut same, mut other) = (0, len - 1);
    while other - same > 1 {
        let middle = same.midpoint(other);
        if a[middle] == b[middle] {
            same = middle;
        } else {
            other = middle;
        }
    }
    other
}

fn blocks(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// [`ROOT`] is past the end of every array.
fn index(id: u32) -> usize {
    usize::try_from(id).unwrap_or(usize::MAX)
}
