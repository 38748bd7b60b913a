//! Which events are about the cache that routing counts on.
//!
//! Hybrid models keep several groups of KV blocks: layers that attend to the whole prompt, and
//! layers that see a window or a state. A prefix can be reused as far as the first kind holds it,
//! under the same block ids in every group, so that only events of that kind may count. Stored
//! events tell the kind of their group; removed ones only its number.

use crate::event::EngineEvent;
use crate::wire::Scope;
use std::collections::BTreeMap;

/// Groups that are remembered. Models have a handful; numbers past this are not believed.
const MAX_GROUPS: usize = 256;

/// The group of models that have one, and of engines that told no kind yet.
const FIRST_GROUP: u32 = 0;

/// What is known of a publisher's groups.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    full_attention: BTreeMap<u32, bool>,
}

impl Groups {
    /// Whether the event counts; learns from it.
    pub fn counts(&mut self, event: &EngineEvent, scope: &Scope) -> bool {
        if scope.foreign {
            return false;
        }
        let Some(group) = scope.group else {
            return scope.full_attention != Some(false);
        };
        match scope.full_attention {
            Some(full) => {
                let stored = matches!(event, EngineEvent::Stored(_));
                let known = self.full_attention.contains_key(&group);
                if stored && (known || self.full_attention.len() < MAX_GROUPS) {
                    self.full_attention.insert(group, full);
                }
                full
            }
            None => self
                .full_attention
                .get(&group)
                .copied()
                .unwrap_or(group == FIRST_GROUP),
        }
    }

    /// Forgets the groups: the engine started anew, perhaps with another model.
    pub fn clear(&mut self) {
        self.full_attention.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{RemovedBlocks, StoredBlocks};

    fn scope(group: Option<u32>, full_attention: Option<bool>) -> Scope {
        Scope {
            group,
            full_attention,
            foreign: false,
        }
    }

    #[test]
    fn removals_follow_what_stores_told_of_their_group() {
        let stored = EngineEvent::Stored(StoredBlocks::default());
        let removed = EngineEvent::Removed(RemovedBlocks::default());
        let mut groups = Groups::default();
        assert!(groups.counts(&removed, &scope(None, None)));
        assert!(groups.counts(&removed, &scope(Some(0), None)));
        assert!(!groups.counts(&removed, &scope(Some(1), None)));
        assert!(!groups.counts(&stored, &scope(Some(0), Some(false))));
        assert!(groups.counts(&stored, &scope(Some(1), Some(true))));
        assert!(!groups.counts(&removed, &scope(Some(0), None)));
        assert!(groups.counts(&removed, &scope(Some(1), None)));
        groups.clear();
        assert!(groups.counts(&removed, &scope(Some(0), None)));
    }

    #[test]
    fn blocks_elsewhere_do_not_count() {
        let foreign = Scope {
            foreign: true,
            ..Scope::default()
        };
        assert!(!Groups::default().counts(&EngineEvent::Cleared, &foreign));
    }

    #[test]
    fn no_number_of_groups_grows_the_memory_past_its_bound() {
        let stored = EngineEvent::Stored(StoredBlocks::default());
        let mut groups = Groups::default();
        for group in 0..10_000 {
            groups.counts(&stored, &scope(Some(group), Some(true)));
        }
        assert_eq!(groups.full_attention.len(), MAX_GROUPS);
    }
}
