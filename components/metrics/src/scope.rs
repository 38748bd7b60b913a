//! Which of the announced workers are looked at. Pure.
//!
//! A worker of an endpoint is a process that serves the endpoint and announces a model there: what
//! else a process serves (files, events) generates nothing. One that drains has withdrawn its
//! model, and is none any more.

use dynamo_llm::model_set::MODEL_CARD_KIND;
use dynamo_runtime::discovery::{EndpointId, NameError, View};
use std::collections::{BTreeMap, BTreeSet};

/// Workers by endpoint, as discovery's ids.
pub type Present = BTreeMap<EndpointId, BTreeSet<u64>>;

/// Whose workers are looked at: everybody's but for what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    namespace: Option<String>,
    component: Option<String>,
    endpoint: Option<String>,
}

impl Scope {
    /// What the options say: `namespace` is the process's own, and limits the scope only if it was
    /// `asked_for`. An endpoint in full says all three.
    pub fn new(
        namespace: &str,
        asked_for: bool,
        component: Option<&str>,
        endpoint: Option<&str>,
    ) -> Result<Self, NameError> {
        let full = endpoint.filter(|it| it.contains("://") || it.contains('.'));
        if let Some(full) = full {
            let id = EndpointId::parse_with_defaults(full, namespace)?;
            return Ok(Self {
                namespace: Some(id.namespace().to_owned()),
                component: Some(id.component().to_owned()),
                endpoint: Some(id.endpoint().to_owned()),
            });
        }
        // Names that nobody can have would find nobody without a word.
        EndpointId::new(
            namespace,
            component.unwrap_or("any"),
            endpoint.unwrap_or("any"),
        )?;
        Ok(Self {
            namespace: asked_for.then(|| namespace.to_owned()),
            component: component.map(str::to_owned),
            endpoint: endpoint.map(str::to_owned),
        })
    }

    fn contains(&self, endpoint: &EndpointId) -> bool {
        let is =
            |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|it| it == name);
        is(&self.namespace, endpoint.namespace())
            && is(&self.component, endpoint.component())
            && is(&self.endpoint, endpoint.endpoint())
    }

    /// The workers in scope.
    pub fn present(&self, view: &View) -> Present {
        let mut present = Present::new();
        for (process, record) in view.processes() {
            let models = record.cards.iter();
            let models = models.filter(|card| card.kind == MODEL_CARD_KIND);
            for endpoint in models.map(|card| &card.endpoint) {
                if self.contains(endpoint) && record.instance(endpoint).is_some() {
                    let workers = present.entry(endpoint.clone()).or_default();
                    workers.insert(process.get());
                }
            }
        }
        present
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_runtime::discovery::{
        CardRecord, DiscoveryEvent, InstanceRecord, Metadata, ProcessId, ProcessRecord,
    };
    use std::sync::Arc;

    /// A process that serves these, and announces a model at the first.
    fn process(view: &mut View, id: u64, serves: &[&str], announces: bool) {
        let endpoints = serves
            .iter()
            .map(|name| name.parse::<EndpointId>().unwrap());
        let instances: Vec<InstanceRecord> = endpoints
            .map(|endpoint| InstanceRecord {
                endpoint,
                address: "tcp://127.0.0.1:1".to_owned(),
                metadata: Metadata::new(),
            })
            .collect();
        let card = CardRecord {
            kind: MODEL_CARD_KIND.to_owned(),
            name: "model".to_owned(),
            endpoint: instances[0].endpoint.clone(),
            body: serde_json::Value::Null,
            artefacts: Vec::new(),
        };
        let record = ProcessRecord {
            cards: announces.then_some(card).into_iter().collect(),
            instances,
            ..ProcessRecord::default()
        };
        view.apply(DiscoveryEvent::Added(
            ProcessId::new(id).unwrap(),
            Arc::new(record),
        ));
    }

    fn found(scope: &Scope) -> Vec<String> {
        let mut view = View::default();
        process(&mut view, 1, &["a.back.generate", "a.back.events"], true);
        process(&mut view, 2, &["a.back.generate", "a.back.events"], false);
        process(&mut view, 3, &["b.back.other", "b.back.events"], true);
        process(&mut view, 4, &["a.router.generate"], true);
        let present = scope.present(&view);
        let found = present.iter();
        found
            .map(|(endpoint, ids)| format!("{endpoint} {ids:?}"))
            .collect()
    }

    #[test]
    fn a_worker_is_who_announces_a_model_where_it_serves() {
        let all = [
            "dyn://a.back.generate {1}",
            "dyn://a.router.generate {4}",
            "dyn://b.back.other {3}",
        ];
        assert_eq!(found(&Scope::default()), all);
    }

    #[test]
    fn what_is_asked_for_limits_the_scope() {
        let scope = |asked, component, endpoint| Scope::new("a", asked, component, endpoint);
        assert_eq!(found(&scope(false, None, None).unwrap()).len(), 3);
        assert_eq!(found(&scope(true, None, None).unwrap()).len(), 2);
        let of_component = found(&scope(false, Some("back"), None).unwrap());
        assert_eq!(of_component.len(), 2);
        let both = found(&scope(false, Some("back"), Some("generate")).unwrap());
        assert_eq!(both, ["dyn://a.back.generate {1}"]);
        let full = found(&scope(true, None, Some("dyn://b.back.other")).unwrap());
        assert_eq!(full, ["dyn://b.back.other {3}"]);
        assert!(scope(false, Some("no name"), None).is_err());
        assert!(scope(false, None, Some("dyn://a.b.c.d")).is_err());
    }
}
