//! Which models a frontend serves, given what processes announce. Pure: the shell that builds
//! and drops pipelines is [`crate::announced_models`].
//!
//! A model is a name, an endpoint and a checksum over everything that shapes its answers. All
//! processes that announce the same three are its workers. Another process that announces the
//! name with other contents would make the answer depend on which worker gets the request: it is
//! refused for as long as the model has workers, and taken when the last of them is gone.
//!
//! Invariants
//! - [`plan`] is idempotent: carrying it out and planning again changes nothing.
//! - It depends on the view and on what is served, not on the order in which things came.

use dynamo_runtime::discovery::{CardRecord, EndpointId, ProcessId};
use std::collections::BTreeMap;

/// Kind of the cards that describe models.
pub const MODEL_CARD_KIND: &str = "model";

/// What tells one model of a name from another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModelIdentity {
    /// The endpoint that serves it.
    pub endpoint: EndpointId,
    /// The card's checksum.
    pub checksum: String,
}

/// A model as one process announces it.
#[derive(Debug, Clone, PartialEq)]
pub struct Announced {
    /// Who announces it.
    pub process: ProcessId,
    /// What it is.
    pub identity: ModelIdentity,
    /// The card as it came.
    pub card: CardRecord,
    /// What it goes by where it is taken in: most often the model's name.
    pub name: String,
}

/// What to do so that what is served matches what is announced.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Models to take away: nobody announces them any more. Carried out first.
    pub remove: Vec<String>,
    /// Models to take in, by name, each with every process that announces it.
    pub add: Vec<(String, Vec<Announced>)>,
    /// Announcements that contradict a model of the same name.
    pub refused: Vec<(String, ProcessId)>,
}

impl ModelIdentity {
    /// What a model card announces.
    pub fn of(card: &CardRecord) -> Self {
        let checksum = card.body["checksum"].as_str().unwrap_or_default();
        Self {
            endpoint: card.endpoint.clone(),
            checksum: checksum.to_owned(),
        }
    }
}

/// Compares what is served with what is announced.
pub fn plan(served: &BTreeMap<String, ModelIdentity>, announced: &[Announced]) -> Plan {
    let mut by_name: BTreeMap<&str, Vec<&Announced>> = BTreeMap::new();
    for one in announced {
        by_name.entry(&one.name).or_default().push(one);
    }
    let mut plan = Plan::default();
    for name in served.keys() {
        if !by_name.contains_key(name.as_str()) {
            plan.remove.push(name.clone());
        }
    }
    for (name, mut workers) in by_name {
        workers.sort_by_key(|one| one.process);
        let current = served
            .get(name)
            .filter(|current| workers.iter().any(|one| one.identity == **current));
        // Without a model in service the oldest claim would be fairest, but nobody knows it:
        // the lowest process id is a claim on which every frontend agrees.
        let chosen = current.unwrap_or(&workers[0].identity).clone();
        for one in workers.iter().filter(|one| one.identity != chosen) {
            plan.refused.push((name.to_owned(), one.process));
        }
        if current.is_none() {
            if served.contains_key(name) {
                plan.remove.push(name.to_owned());
            }
            let sources = workers
                .into_iter()
                .filter(|one| one.identity == chosen)
                .cloned()
                .collect();
            plan.add.push((name.to_owned(), sources));
        }
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn announced(process: u64, name: &str, checksum: &str) -> Announced {
        let endpoint: EndpointId = "dyn://test.backend.generate".parse().unwrap();
        Announced {
            process: ProcessId::new(process).unwrap(),
            identity: ModelIdentity {
                endpoint: endpoint.clone(),
                checksum: checksum.to_owned(),
            },
            card: CardRecord {
                kind: MODEL_CARD_KIND.to_owned(),
                name: name.to_owned(),
                endpoint,
                body: serde_json::Value::Null,
                artefacts: Vec::new(),
            },
            name: name.to_owned(),
        }
    }

    fn carry_out(served: &mut BTreeMap<String, ModelIdentity>, plan: &Plan) {
        for name in &plan.remove {
            assert!(served.remove(name).is_some(), "{name} was served");
        }
        for (name, workers) in &plan.add {
            let old = served.insert(name.clone(), workers[0].identity.clone());
            assert!(old.is_none(), "{name} was free");
        }
    }

    #[test]
    fn a_different_model_of_the_same_name_waits_until_the_first_is_gone() {
        let mut served = BTreeMap::new();
        let next = plan(&served, &[announced(2, "m", "old")]);
        carry_out(&mut served, &next);
        let both = [announced(1, "m", "new"), announced(2, "m", "old")];
        let contested = plan(&served, &both);
        assert_eq!(contested.refused, [("m".to_owned(), both[0].process)]);
        assert!(contested.add.is_empty() && contested.remove.is_empty());
        let after = plan(&served, &both[..1]);
        assert_eq!(after.remove, ["m"]);
        assert_eq!(after.add.len(), 1);
        assert!(after.refused.is_empty());
    }

    #[test]
    fn the_last_worker_takes_its_model_along() {
        let mut served = BTreeMap::new();
        let two = [announced(1, "m", "a"), announced(2, "m", "a")];
        let next = plan(&served, &two);
        carry_out(&mut served, &next);
        assert_eq!(plan(&served, &two[1..]), Plan::default());
        assert_eq!(plan(&served, &[]).remove, ["m"]);
    }

    proptest! {
        #[test]
        fn planning_is_idempotent_and_blind_to_order(
            before in prop::collection::vec((1_u64..6, 0..3_u8, 0..3_u8), 0..8),
            after in prop::collection::vec((1_u64..6, 0..3_u8, 0..3_u8), 0..8),
        ) {
            let build = |list: &[(u64, u8, u8)]| -> Vec<Announced> {
                list.iter()
                    .map(|(process, name, sum)| announced(*process, &name.to_string(), &sum.to_string()))
                    .collect()
            };
            let mut served = BTreeMap::new();
            let next = plan(&served, &build(&before));
        carry_out(&mut served, &next);
            let after = build(&after);
            let first = plan(&served, &after);
            carry_out(&mut served, &first);
            let again = plan(&served, &after);
            prop_assert!(again.add.is_empty() && again.remove.is_empty());
            // Everything announced by name is served, and nothing else is.
            let mut names: Vec<_> = after.iter().map(|one| one.name.clone()).collect();
            names.sort();
            names.dedup();
            prop_assert_eq!(names, served.keys().cloned().collect::<Vec<_>>());
            for (name, sources) in &first.add {
                prop_assert!(sources.iter().all(|one| &one.name == name));
                prop_assert!(sources.iter().all(|one| one.identity == served[name]));
            }
        }
    }
}
