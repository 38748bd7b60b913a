//! What outside users ask: a prompt as tokens or as block hashes, and wishes.

use dynamo_llm::routed_models::RoutedModel;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::routing::{RouteHints, RouteSlip};
use dynamo_routing::Prompt;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use std::fmt;
use std::sync::Arc;

/// Longest session or tenant: they are kept as hashes, but come as text.
const MAX_NAME_BYTES: usize = 1_024;

/// Workers that a question may name.
const MAX_ALLOWED: usize = 4_096;

/// The body of `/select` and `/select_and_reserve`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Question {
    /// The model's served name.
    pub(crate) model: String,
    #[serde(default)]
    token_ids: Option<Vec<u32>>,
    #[serde(default)]
    block_hashes: Option<Vec<BlockHash>>,
    /// Tokens of the prompt where only its hashes are given.
    #[serde(default)]
    prompt_tokens: Option<u64>,
    #[serde(default)]
    lora_name: Option<String>,
    #[serde(default)]
    cache_salt: Option<String>,
    #[serde(default)]
    session: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    priority: i32,
    #[serde(default)]
    strict_priority: u32,
    #[serde(default)]
    expected_output_tokens: Option<u32>,
    #[serde(default)]
    allowed_worker_ids: Option<Vec<u64>>,
    #[serde(default)]
    dp_rank: Option<u32>,
    /// Whether the answer is to have every candidate.
    #[serde(default)]
    pub(crate) explain: bool,
}

/// A block's hash: 64 bits, which some languages write with a sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct BlockHash(u64);

/// The same, checked, as a router is asked.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) tokens: Vec<u32>,
    pub(crate) blocks: Option<Vec<u64>>,
    pub(crate) isl_tokens: u64,
    lora: Option<String>,
    salt: Option<String>,
    priority: i32,
    allowed: Option<Vec<u64>>,
    pub(crate) slip: Arc<RouteSlip>,
}

impl Question {
    /// Checks it against what the model takes.
    pub(crate) fn check(self, model: &RoutedModel) -> Result<Asked, RequestError> {
        let block_size = u64::from(model.card.kv_block_size);
        let blocks = self
            .block_hashes
            .map(|blocks| blocks.into_iter().map(|hash| hash.0).collect::<Vec<u64>>());
        let isl_tokens = match (&self.token_ids, &blocks) {
            (Some(tokens), None) if self.prompt_tokens.is_none() => tokens.len() as u64,
            (Some(_), None) => {
                return Err(RequestError::invalid(
                    "prompt_tokens",
                    "`prompt_tokens` goes with `block_hashes`; leave it out beside `token_ids`",
                ));
            }
            (None, Some(blocks)) => {
                let full = blocks.len() as u64 * block_size;
                let tokens = self.prompt_tokens.unwrap_or(full);
                if tokens < full || tokens - full >= block_size.max(1) {
                    let least = format!("{full} to {}", full + block_size.saturating_sub(1));
                    return Err(RequestError::invalid(
                        "prompt_tokens",
                        format!(
                            "{} full blocks of {block_size} tokens make a prompt of {least}",
                            blocks.len()
                        ),
                    ));
                }
                tokens
            }
            (Some(_), Some(_)) | (None, None) => {
                return Err(RequestError::invalid(
                    "token_ids",
                    "give either `token_ids` or `block_hashes`",
                ));
            }
        };
        check_length(isl_tokens, model)?;
        check_name("session", self.session.as_deref())?;
        check_name("tenant", self.tenant.as_deref())?;
        let mut allowed = self.allowed_worker_ids;
        if let Some(allowed) = &mut allowed {
            if allowed.len() > MAX_ALLOWED {
                let message = format!("name at most {MAX_ALLOWED} workers");
                return Err(RequestError::invalid("allowed_worker_ids", message));
            }
            allowed.sort_unstable();
        }
        Ok(Asked {
            tokens: self.token_ids.unwrap_or_default(),
            blocks,
            isl_tokens,
            lora: self.lora_name,
            salt: self.cache_salt,
            priority: self.priority,
            allowed,
            slip: Arc::new(RouteSlip::new(RouteHints {
                session: self.session.map(Arc::from),
                tenant: self.tenant.map(Arc::from),
                dp_rank: self.dp_rank,
                strict_priority: self.strict_priority,
                expected_output_tokens: self.expected_output_tokens,
                explain: self.explain,
                ..RouteHints::default()
            })),
        })
    }
}

fn check_length(tokens: u64, model: &RoutedModel) -> Result<(), RequestError> {
    let limit = u64::from(model.card.context_length);
    if tokens <= limit {
        return Ok(());
    }
    Err(RequestError::new(
        ErrorCode::ContextLengthExceeded,
        format!(
            "the prompt has {tokens} tokens and model `{}` takes {limit}; shorten it",
            model.name
        ),
    ))
}

fn check_name(field: &str, name: Option<&str>) -> Result<(), RequestError> {
    if name.is_some_and(|name| name.len() > MAX_NAME_BYTES) {
        let message = format!("`{field}` may have at most {MAX_NAME_BYTES} bytes");
        return Err(RequestError::invalid(field, message));
    }
    Ok(())
}

impl Asked {
    pub(crate) fn prompt(&self) -> Prompt<'_> {
        Prompt {
            tokens: &self.tokens,
            blocks: self.blocks.as_deref(),
            isl_tokens: self.isl_tokens,
            lora: self.lora.as_deref(),
            salt: self.salt.as_deref(),
            priority: self.priority,
            allowed: self.allowed.as_deref(),
        }
    }
}

impl<'de> Deserialize<'de> for BlockHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Hash;
        impl Visitor<'_> for Hash {
            type Value = BlockHash;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a 64-bit integer")
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<BlockHash, E> {
                Ok(BlockHash(value))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<BlockHash, E> {
                Ok(BlockHash(value.cast_unsigned()))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<BlockHash, E> {
                Err(E::invalid_type(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_any(Hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_may_have_a_sign_and_nothing_else() {
        let read = |text: &str| serde_json::from_str::<BlockHash>(text);
        assert_eq!(read("18446744073709551615").unwrap(), BlockHash(u64::MAX));
        assert_eq!(read("-1").unwrap(), BlockHash(u64::MAX));
        for wrong in ["1.5", "\"7\"", "18446744073709551616", "null", "[]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
