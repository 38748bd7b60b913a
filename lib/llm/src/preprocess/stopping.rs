//! When a choice ends, and what of its text is shown.

use super::TextOptions;
use super::sampling::check_token;
use crate::card::ModelCard;
use dynamo_protocols::engine::StopConditions;
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::generation::{OutputFields, StopFields};

/// The engine's part: tokens. `max_tokens` is filled in per prompt.
pub(super) fn conditions(
    fields: &StopFields,
    card: &ModelCard,
    vocabulary: usize,
) -> Result<StopConditions, RequestError> {
    let mut stop_ids = fields.stop_token_ids.clone().unwrap_or_default();
    for id in &stop_ids {
        check_token("stop_token_ids", *id, vocabulary)?;
    }
    stop_ids.sort_unstable();
    stop_ids.dedup();
    Ok(StopConditions {
        max_tokens: 0,
        min_tokens: fields.min_tokens.unwrap_or(0),
        eos_ids: card.eos_ids.clone(),
        stop_ids,
        ignore_eos: fields.ignore_eos.unwrap_or(false),
    })
}

/// The pipeline's part: text.
pub(super) fn text_options(fields: &StopFields, output: &OutputFields) -> TextOptions {
    TextOptions {
        stop_strings: fields
            .stop
            .as_ref()
            .map(|stop| stop.0.clone())
            .unwrap_or_default(),
        include_stop: fields.include_stop_str_in_output.unwrap_or(false),
        skip_special_tokens: fields.skip_special_tokens.unwrap_or(true),
        tokens_as_ids: output.return_tokens_as_token_ids.unwrap_or(false),
    }
}
