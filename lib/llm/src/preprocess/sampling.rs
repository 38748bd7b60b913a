//! How tokens are drawn: what the client says, else what the model's makers recommend, else the
//! API's own default.

use super::limits::within;
use crate::card::GenerationDefaults;
use dynamo_protocols::engine::{SamplingParams, TokenId};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::generation::SamplingFields;

/// The API's default: draw from the model's own distribution.
const API_TEMPERATURE: f32 = 1.0;

/// Sampling parameters of a request whose ranges are checked. `draw_seed` is asked only if the
/// client gave no seed.
pub(super) fn params(
    fields: &SamplingFields,
    defaults: &GenerationDefaults,
    greedy: bool,
    vocabulary: usize,
    draw_seed: impl FnOnce() -> u64,
) -> Result<SamplingParams, RequestError> {
    let plain = SamplingParams::default();
    let temperature = if greedy {
        0.0
    } else {
        fields
            .temperature
            .map(single)
            .or(defaults.temperature)
            .unwrap_or(API_TEMPERATURE)
    };
    Ok(SamplingParams {
        temperature,
        top_p: fields
            .top_p
            .map(single)
            .or(defaults.top_p)
            .unwrap_or(plain.top_p),
        // -1 and 0 both keep every token.
        top_k: fields
            .top_k
            .map(|k| u32::try_from(k.max(0)).unwrap_or(u32::MAX))
            .or(defaults.top_k)
            .unwrap_or(plain.top_k),
        min_p: fields
            .min_p
            .map(single)
            .or(defaults.min_p)
            .unwrap_or(plain.min_p),
        frequency_penalty: fields.frequency_penalty.map_or(0.0, single),
        presence_penalty: fields.presence_penalty.map_or(0.0, single),
        repetition_penalty: fields
            .repetition_penalty
            .map(single)
            .or(defaults.repetition_penalty)
            .unwrap_or(plain.repetition_penalty),
        // The bits of a negative seed are as good as any.
        seed: fields.seed.map_or_else(draw_seed, i64::cast_unsigned),
        logit_bias: logit_bias(fields, vocabulary)?,
        structured: None,
    })
}

/// The biases by token id, in order.
fn logit_bias(
    fields: &SamplingFields,
    vocabulary: usize,
) -> Result<Vec<(TokenId, f32)>, RequestError> {
    let mut biases = Vec::new();
    for (key, bias) in fields.logit_bias.iter().flatten() {
        let token: TokenId = key.parse().map_err(|_| {
            RequestError::invalid("logit_bias", "the keys of `logit_bias` must be token ids")
        })?;
        check_token("logit_bias", token, vocabulary)?;
        biases.push((token, single(*bias)));
    }
    biases.sort_unstable_by_key(|(token, _)| *token);
    biases.dedup_by_key(|(token, _)| *token);
    Ok(biases)
}

/// Checks that the vocabulary has a token.
pub(super) fn check_token(
    param: &str,
    token: TokenId,
    vocabulary: usize,
) -> Result<(), RequestError> {
    let last = TokenId::try_from(vocabulary.saturating_sub(1)).unwrap_or(TokenId::MAX);
    within(param, Some(token), 0, last)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "engines compute in single precision; ranges are checked"
)]
fn single(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recommended() -> GenerationDefaults {
        GenerationDefaults {
            temperature: Some(0.6),
            top_p: Some(0.95),
            top_k: Some(20),
            min_p: None,
            repetition_penalty: None,
        }
    }

    #[test]
    fn the_client_wins_over_the_model_and_the_model_over_the_api() {
        let fields = SamplingFields {
            top_k: Some(-1),
            ..SamplingFields::default()
        };
        let drawn = params(&fields, &recommended(), false, 10, || 7).unwrap();
        assert_eq!(drawn.temperature.to_bits(), 0.6_f32.to_bits());
        assert_eq!((drawn.top_k, drawn.seed), (0, 7));
        let drawn = params(&fields, &GenerationDefaults::default(), false, 10, || 7).unwrap();
        assert_eq!(drawn.temperature.to_bits(), 1.0_f32.to_bits());
        let greedy = params(&fields, &recommended(), true, 10, || 7).unwrap();
        assert_eq!(greedy.temperature.to_bits(), 0.0_f32.to_bits());
    }

    #[test]
    fn a_seed_of_the_client_is_kept_and_none_is_drawn() {
        let fields = SamplingFields {
            seed: Some(-1),
            ..SamplingFields::default()
        };
        let drawn = params(&fields, &recommended(), false, 10, || unreachable!()).unwrap();
        assert_eq!(drawn.seed, u64::MAX);
    }

    #[test]
    fn biases_are_sorted_and_name_tokens_of_the_vocabulary() {
        let with = |pairs: &[(&str, f64)]| SamplingFields {
            logit_bias: Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()),
            ..SamplingFields::default()
        };
        let bias = logit_bias(&with(&[("9", 1.0), ("10", -1.0)]), 11).unwrap();
        assert_eq!(bias, [(9, 1.0), (10, -1.0)]);
        for key in ["11", "-1", "x", ""] {
            assert!(logit_bias(&with(&[(key, 1.0)]), 11).is_err(), "{key}");
        }
    }
}
