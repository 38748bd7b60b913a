//! The one owner of this process's discovery record.
//!
//! Endpoints, cards and event channels of a process share one record, and a record is announced
//! whole. Each change goes through [`Announcer::update`], one after the other, so that no
//! announcement undoes another.
//!
//! An outage of discovery fails nobody. Before the process has its id there is nothing to serve
//! under, and the first announcement waits for the backend; later ones are kept by the backend until
//! it is back, and count as done.

use crate::discovery::{
    CardRecord, Discovery, DiscoveryError, EndpointId, InstanceRecord, ProcessId, ProcessRecord,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// Pause between attempts at the first announcement. The backend tries by itself too, and says at
/// once when it is out of reach: this only bounds how often it is asked.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Merges what the parts of a process announce. Cheap to clone; clones are the same owner.
#[derive(Debug, Clone)]
pub struct Announcer {
    discovery: Arc<dyn Discovery>,
    announced: Arc<Mutex<Announced>>,
}

/// What was announced last, and the process's id once it is known.
#[derive(Debug, Default)]
struct Announced {
    record: ProcessRecord,
    id: Option<ProcessId>,
}

impl Announcer {
    /// An owner that has announced nothing. There is one per discovery handle.
    pub fn new(discovery: Arc<dyn Discovery>) -> Self {
        Self {
            discovery,
            announced: Arc::default(),
        }
    }

    /// Changes the record, announces it and gives back the process's id.
    ///
    /// While the backend is unavailable, the first announcement waits for it, and a later one is
    /// left to it, to be made on its return. On any other error nothing has changed.
    pub async fn update(
        &self,
        change: impl FnOnce(&mut ProcessRecord),
    ) -> Result<ProcessId, DiscoveryError> {
        let mut announced = self.announced.lock().await;
        let mut changed = announced.record.clone();
        change(&mut changed);
        let mut is_waiting = false;
        loop {
            match self.discovery.announce(changed.clone()).await {
                Ok(id) => {
                    *announced = Announced {
                        record: changed,
                        id: Some(id),
                    };
                    return Ok(id);
                }
                Err(error @ DiscoveryError::Unavailable { .. }) => {
                    // The backend keeps the wish: to take it back is to say so.
                    announced.record = changed.clone();
                    if let Some(id) = announced.id {
                        tracing::warn!(%error, "this process is announced when discovery is back");
                        return Ok(id);
                    }
                    if !is_waiting {
                        is_waiting = true;
                        tracing::warn!(%error, "waiting for discovery to announce this process");
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => return self.refused(error, &announced).await,
            }
        }
    }

    /// A backend that refuses keeps its wish: it is to be what was announced before.
    async fn refused(
        &self,
        error: DiscoveryError,
        before: &Announced,
    ) -> Result<ProcessId, DiscoveryError> {
        if matches!(error, DiscoveryError::Refused { .. }) {
            let restored = if before.record.is_empty() {
                self.discovery.withdraw().await
            } else {
                self.discovery
                    .announce(before.record.clone())
                    .await
                    .map(drop)
            };
            if let Err(restored) = restored {
                tracing::debug!(error = %restored, "the announcement before could not be restored now");
            }
        }
        Err(error)
    }

    /// Announces an instance. One that is announced already is replaced.
    pub async fn put_instance(
        &self,
        instance: InstanceRecord,
    ) -> Result<ProcessId, DiscoveryError> {
        self.update(|record| {
            let instances = &mut record.instances;
            instances.retain(|other| other.endpoint != instance.endpoint);
            instances.push(instance);
        })
        .await
    }

    /// Takes an instance away, and the cards of its endpoint with it.
    pub async fn remove_instance(&self, endpoint: &EndpointId) -> Result<(), DiscoveryError> {
        self.remove(|record| {
            record.instances.retain(|i| i.endpoint != *endpoint);
            record.cards.retain(|card| card.endpoint != *endpoint);
        })
        .await
    }

    /// An endpoint's instance and its cards, as announced.
    pub async fn records_of(
        &self,
        endpoint: &EndpointId,
    ) -> (Vec<InstanceRecord>, Vec<CardRecord>) {
        let announced = self.announced.lock().await;
        let record = &announced.record;
        let instances = record
            .instances
            .iter()
            .filter(|it| it.endpoint == *endpoint);
        let cards = record.cards.iter().filter(|it| it.endpoint == *endpoint);
        (instances.cloned().collect(), cards.cloned().collect())
    }

    /// Announces a card. One of the same kind, name and endpoint is replaced.
    pub async fn put_card(&self, card: CardRecord) -> Result<ProcessId, DiscoveryError> {
        self.update(|record| {
            record.cards.retain(|other| !is_same_card(other, &card));
            record.cards.push(card);
        })
        .await
    }

    /// Takes a card away, found by its kind, name and endpoint.
    pub async fn remove_card(&self, card: &CardRecord) -> Result<(), DiscoveryError> {
        self.remove(|record| record.cards.retain(|other| !is_same_card(other, card)))
            .await
    }

    /// Takes everything away.
    pub async fn clear(&self) -> Result<(), DiscoveryError> {
        self.remove(|record| *record = ProcessRecord::default())
            .await
    }

    /// Changes the record, and withdraws it if nothing is left.
    async fn remove(&self, change: impl FnOnce(&mut ProcessRecord)) -> Result<(), DiscoveryError> {
        let mut announced = self.announced.lock().await;
        let record = &mut announced.record;
        let before = record.clone();
        change(record);
        if *record == before {
            return Ok(());
        }
        if record.is_empty() {
            return self.discovery.withdraw().await;
        }
        self.discovery.announce(record.clone()).await.map(drop)
    }
}

fn is_same_card(one: &CardRecord, other: &CardRecord) -> bool {
    one.kind == other.kind && one.name == other.name && one.endpoint == other.endpoint
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::mem::MemRegistry;
    use crate::discovery::{Metadata, RecordError, View};
    use futures_util::FutureExt;

    fn instance(name: &str) -> InstanceRecord {
        InstanceRecord {
            endpoint: EndpointId::new("ns", "comp", name).unwrap(),
            address: "tcp://127.0.0.1:1".to_owned(),
            metadata: Metadata::new(),
        }
    }

    fn card(name: &str, endpoint: &str, body: serde_json::Value) -> CardRecord {
        CardRecord {
            kind: "model".to_owned(),
            name: name.to_owned(),
            endpoint: EndpointId::new("ns", "comp", endpoint).unwrap(),
            body,
            artefacts: Vec::new(),
        }
    }

    /// The processes as a watcher of the registry knows them.
    async fn seen(registry: &MemRegistry) -> View {
        let mut watch = registry.join().watch();
        let mut view = View::default();
        while let Some(Some(event)) = watch.next().now_or_never() {
            view.apply(event);
        }
        view
    }

    #[tokio::test]
    async fn parts_of_a_process_share_one_record() {
        let registry = MemRegistry::new();
        let announcer = Announcer::new(Arc::new(registry.join()));
        let id = announcer.put_instance(instance("one")).await.unwrap();
        let model = card("m", "one", 1.into());
        assert_eq!(announcer.put_card(model).await.unwrap(), id);
        assert_eq!(announcer.put_instance(instance("two")).await.unwrap(), id);
        let replaced = card("m", "one", 2.into());
        announcer.put_card(replaced.clone()).await.unwrap();

        let view = seen(&registry).await;
        let record = &view.processes()[&id];
        assert_eq!(record.instances, [instance("one"), instance("two")]);
        assert_eq!(record.cards, [replaced]);
    }

    #[tokio::test]
    async fn an_instance_goes_with_its_cards_and_the_last_one_withdraws_the_process() {
        let registry = MemRegistry::new();
        let announcer = Announcer::new(Arc::new(registry.join()));
        let (one, two) = (instance("one"), instance("two"));
        let id = announcer.put_instance(one.clone()).await.unwrap();
        announcer.put_instance(two.clone()).await.unwrap();
        announcer
            .put_card(card("m", "one", 1.into()))
            .await
            .unwrap();
        announcer.remove_instance(&one.endpoint).await.unwrap();
        let view = seen(&registry).await;
        assert_eq!(view.processes()[&id].instances, vec![two.clone()]);
        assert!(view.processes()[&id].cards.is_empty());
        announcer.remove_instance(&two.endpoint).await.unwrap();
        assert!(seen(&registry).await.processes().is_empty());
    }

    #[tokio::test]
    async fn a_refused_change_leaves_the_record_as_it_was() {
        let registry = MemRegistry::new();
        let announcer = Announcer::new(Arc::new(registry.join()));
        announcer.put_instance(instance("one")).await.unwrap();
        let large = card("large", "one", "x".repeat(100_000).into());
        let refused = announcer.put_card(large).await.unwrap_err();
        assert!(matches!(
            refused,
            DiscoveryError::Record(RecordError::TooLarge { .. })
        ));
        let small = card("small", "one", 1.into());
        let id = announcer.put_card(small.clone()).await.unwrap();
        assert_eq!(seen(&registry).await.processes()[&id].cards, [small]);
    }
}
