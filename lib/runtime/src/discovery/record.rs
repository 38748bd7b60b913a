//! What a process tells the others about itself, and the limits of it.
//!
//! A record carries names, metadata, and size and hash of each artefact, never the artefact:
//! tokenizers have tens of megabytes, and backends take about one (etcd 1.5 MiB, a NATS message
//! 1 MiB, a Kubernetes object about 1.5 MB). Fields that a newer process adds are ignored.

use super::endpoint_id::{EndpointId, NameError, check_name};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Largest record, serialised as JSON: far below every backend's limit, and far above what a
/// process with dozens of endpoints and model cards needs.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;

/// Longest name of a card or an artefact, in bytes.
const MAX_CARD_NAME_LEN: usize = 256;

/// Facts about an instance, a card or a channel that this layer carries unread.
pub type Metadata = BTreeMap<String, serde_json::Value>;

/// Everything the others know about a process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Versions of the request plane's protocol that the process speaks.
    #[serde(default)]
    pub protocol: ProtocolVersions,
    /// What it serves, at most once per endpoint.
    #[serde(default)]
    pub instances: Vec<InstanceRecord>,
    /// What it offers through its instances: models, adapters.
    #[serde(default)]
    pub cards: Vec<CardRecord>,
    /// Where its events can be subscribed to.
    #[serde(default)]
    pub event_channels: Vec<EventChannelRecord>,
}

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtocolVersions {
    /// The oldest version spoken.
    pub min: u16,
    /// The newest version spoken.
    pub max: u16,
}

/// An endpoint that the process serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Which endpoint.
    #[serde(flatten)]
    pub endpoint: EndpointId,
    /// Where to reach it, with the transport as scheme: `tcp://127.0.0.1:41234`.
    pub address: String,
    /// What else callers may want to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: Metadata,
}

/// Something that an endpoint of the process offers, described for those who choose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CardRecord {
    /// What it is: `model`, `lora`, ...
    pub kind: String,
    /// Its name, as clients write it.
    pub name: String,
    /// The endpoint that serves it.
    #[serde(flatten)]
    pub endpoint: EndpointId,
    /// The description, in the form of its kind.
    #[serde(default)]
    pub body: serde_json::Value,
    /// Files that belong to it, to be fetched by hash.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artefacts: Vec<ArtefactRef>,
}

/// A file, by what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ArtefactRef {
    /// What the file is called: `tokenizer.json`.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// BLAKE3 of its content, 64 lower-case hexadecimal digits.
    pub blake3: String,
}

/// A stream of events that can be subscribed to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventChannelRecord {
    /// The namespace the events belong to.
    pub namespace: String,
    /// The component, if they belong to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// What they are about: `kv-events`.
    pub topic: String,
    /// Where to subscribe, with the transport as scheme.
    pub address: String,
    /// What else subscribers may want to know.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: Metadata,
}

/// Why a record cannot be announced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A namespace, component, endpoint or topic is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The record is larger than [`MAX_RECORD_BYTES`].
    #[error(
        "the discovery record has {size} bytes, more than {MAX_RECORD_BYTES}; \
         the biggest part is {biggest} with {biggest_size}: announce large content as an artefact"
    )]
    TooLarge {
        /// Size of the record, in bytes.
        size: usize,
        /// Its biggest instance, card or channel.
        biggest: String,
        /// Size of that part, in bytes.
        biggest_size: usize,
    },
    /// Two instances of one endpoint in one process.
    #[error("{0} is served twice by one process")]
    DuplicateInstance(EndpointId),
    /// A card or artefact whose name is empty, too long, or has control characters.
    #[error("{0:?} cannot name a card or an artefact")]
    CardName(String),
    /// An artefact's hash that is not 64 lower-case hexadecimal digits.
    #[error("artefact {0:?} has no valid blake3 hash")]
    ArtefactHash(String),
    /// The record has content that JSON cannot express.
    #[error("the discovery record cannot be written as json")]
    Json(#[source] serde_json::Error),
}

// === impl ProtocolVersions ===

impl ProtocolVersions {
    /// The newest version that both sides speak, if there is one.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl Default for ProtocolVersions {
    fn default() -> Self {
        Self { min: 1, max: 1 }
    }
}

// === impl ProcessRecord ===

impl ProcessRecord {
    /// Whether there is nothing to announce.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.cards.is_empty() && self.event_channels.is_empty()
    }

    /// The process's instance of an endpoint.
    pub fn instance(&self, endpoint: &EndpointId) -> Option<&InstanceRecord> {
        self.instances
            .iter()
            .find(|instance| instance.endpoint == *endpoint)
    }

    /// Checks names, hashes and size. Every backend calls it before it takes a record.
    pub fn validate(&self) -> Result<(), RecordError> {
        self.validate_instances()?;
        self.cards.iter().try_for_each(CardRecord::validate)?;
        for channel in &self.event_channels {
            check_name("namespace", &channel.namespace)?;
            check_name("topic", &channel.topic)?;
            if let Some(component) = &channel.component {
                check_name("component", component)?;
            }
        }
        self.validate_size()
    }

    fn validate_instances(&self) -> Result<(), RecordError> {
        let mut seen = BTreeSet::new();
        for instance in &self.instances {
            if !seen.insert(&instance.endpoint) {
                return Err(RecordError::DuplicateInstance(instance.endpoint.clone()));
            }
        }
        Ok(())
    }

    fn validate_size(&self) -> Result<(), RecordError> {
        let size = json_size(self)?;
        if size <= MAX_RECORD_BYTES {
            return Ok(());
        }
        let mut parts = Vec::new();
        for instance in &self.instances {
            parts.push((
                json_size(instance)?,
                format!("instance {}", instance.endpoint),
            ));
        }
        for card in &self.cards {
            parts.push((
                json_size(card)?,
                format!("{} card {:?}", card.kind, card.name),
            ));
        }
        for channel in &self.event_channels {
            parts.push((
                json_size(channel)?,
                format!("event channel {}", channel.topic),
            ));
        }
        let (biggest_size, biggest) = parts.into_iter().max().unwrap_or_default();
        Err(RecordError::TooLarge {
            size,
            biggest,
            biggest_size,
        })
    }
}

impl CardRecord {
    fn validate(&self) -> Result<(), RecordError> {
        check_name("card kind", &self.kind)?;
        check_card_name(&self.name)?;
        for artefact in &self.artefacts {
            check_card_name(&artefact.name)?;
            let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            if artefact.blake3.len() != 64 || !artefact.blake3.bytes().all(hex) {
                return Err(RecordError::ArtefactHash(artefact.name.clone()));
            }
        }
        Ok(())
    }
}

fn check_card_name(name: &str) -> Result<(), RecordError> {
    if (1..=MAX_CARD_NAME_LEN).contains(&name.len()) && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let start = name.chars().take(MAX_CARD_NAME_LEN).collect();
    Err(RecordError::CardName(start))
}

/// Counts bytes instead of keeping them.
struct ByteCount(usize);

impl io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn json_size(value: &impl Serialize) -> Result<usize, RecordError> {
    let mut count = ByteCount(0);
    serde_json::to_writer(&mut count, value).map_err(RecordError::Json)?;
    Ok(count.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(name: &str) -> EndpointId {
        EndpointId::new("ns", "comp", name).unwrap()
    }

    fn card(name: &str, body: serde_json::Value) -> CardRecord {
        CardRecord {
            kind: "model".to_owned(),
            name: name.to_owned(),
            endpoint: endpoint("generate"),
            body,
            artefacts: vec![ArtefactRef {
                name: "tokenizer.json".to_owned(),
                size: 11_400_000,
                blake3: "0123456789abcdef".repeat(4),
            }],
        }
    }

    fn instance(name: &str) -> InstanceRecord {
        InstanceRecord {
            endpoint: endpoint(name),
            address: "tcp://127.0.0.1:1".to_owned(),
            metadata: Metadata::new(),
        }
    }

    #[test]
    fn a_record_survives_json_and_ignores_what_a_newer_process_adds() {
        let record = ProcessRecord {
            instances: vec![instance("generate")],
            cards: vec![card("org/model", serde_json::json!({"context": 32_768}))],
            ..ProcessRecord::default()
        };
        record.validate().unwrap();
        let mut json = serde_json::to_value(&record).unwrap();
        json["quota"] = serde_json::json!({"of": "the future"});
        json["instances"][0]["zone"] = serde_json::json!("b");
        assert_eq!(
            serde_json::from_value::<ProcessRecord>(json).unwrap(),
            record
        );
    }

    #[test]
    fn a_record_that_is_too_large_names_its_biggest_part() {
        let record = ProcessRecord {
            cards: vec![
                card("small", serde_json::Value::Null),
                card("huge", "x".repeat(MAX_RECORD_BYTES).into()),
            ],
            ..ProcessRecord::default()
        };
        let error = record.validate().unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, RecordError::TooLarge { .. }), "{text}");
        assert!(text.contains("model card \"huge\""), "{text}");
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        let mut record = ProcessRecord {
            cards: vec![card("model", String::new().into())],
            ..ProcessRecord::default()
        };
        let rest = MAX_RECORD_BYTES - json_size(&record).unwrap();
        record.cards[0].body = "x".repeat(rest).into();
        record.validate().unwrap();
        record.cards[0].body = "x".repeat(rest + 1).into();
        assert!(record.validate().is_err());
    }

    #[test]
    fn two_instances_of_one_endpoint_are_refused() {
        let record = ProcessRecord {
            instances: vec![instance("a"), instance("b"), instance("a")],
            ..ProcessRecord::default()
        };
        let error = record.validate().unwrap_err();
        assert!(matches!(error, RecordError::DuplicateInstance(id) if id == endpoint("a")));
    }

    #[test]
    fn a_hash_that_is_no_hash_is_refused() {
        let mut bad = card("model", serde_json::Value::Null);
        bad.artefacts[0].blake3 = "ABCD".to_owned();
        let record = ProcessRecord {
            cards: vec![bad],
            ..ProcessRecord::default()
        };
        assert!(matches!(
            record.validate(),
            Err(RecordError::ArtefactHash(_))
        ));
    }

    #[test]
    fn versions_meet_at_the_newest_that_both_speak() {
        let range = |min, max| ProtocolVersions { min, max };
        assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
        assert_eq!(range(2, 5).common(range(1, 3)), Some(3));
        assert_eq!(range(1, 1).common(range(2, 2)), None);
    }
}
