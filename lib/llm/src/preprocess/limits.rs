//! The documented ranges of request fields, and nothing else: each check is one line that names
//! the field, the range and the value.

use super::PreprocessLimits;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::generation::{OutputFields, SamplingFields, StopFields};
use std::fmt::Display;

/// Most choices of a request, prompts multiplied by `n`: each one is a sequence of the engine.
pub(super) const MAX_CHOICES: u32 = 128;

/// Most stop strings: each is compared at each token.
const MAX_STOP_STRINGS: usize = 32;

/// Longest stop string in bytes: as much text may have to be withheld from a stream.
const MAX_STOP_BYTES: usize = 4_096;

/// Most stop tokens: each is compared at each token, and they travel with the request.
const MAX_STOP_TOKENS: usize = 256;

/// Most tokens of an answer that may be asked for.
const MAX_TOKENS: u32 = 1_048_576;

/// Most biased tokens: they travel with the request and are applied at each step.
const MAX_LOGIT_BIAS: usize = 1_024;

/// Most alternatives per token of a chat answer.
const MAX_TOP_LOGPROBS: u32 = 20;

/// Most alternatives per token of a plain completion.
const MAX_COMPLETION_LOGPROBS: u32 = 5;

/// Longest cache salt in bytes: it is hashed with every block.
const MAX_SALT_BYTES: usize = 1_024;

/// Ranges of the sampling fields.
pub(super) fn check_sampling(fields: &SamplingFields) -> Result<(), RequestError> {
    within("temperature", fields.temperature, 0.0, 2.0)?;
    above_zero("top_p", fields.top_p, 1.0)?;
    within("min_p", fields.min_p, 0.0, 1.0)?;
    within("frequency_penalty", fields.frequency_penalty, -2.0, 2.0)?;
    within("presence_penalty", fields.presence_penalty, -2.0, 2.0)?;
    above_zero("repetition_penalty", fields.repetition_penalty, 2.0)?;
    within("top_k", fields.top_k, -1, i64::from(u32::MAX))?;
    let Some(bias) = &fields.logit_bias else {
        return Ok(());
    };
    at_most("logit_bias", "tokens", bias.len(), MAX_LOGIT_BIAS)?;
    for (token, value) in bias {
        let param = format!("logit_bias.{}", token.chars().take(20).collect::<String>());
        within(&param, Some(*value), -100.0, 100.0)?;
    }
    Ok(())
}

/// Ranges of the fields about the end of a choice.
pub(super) fn check_stopping(fields: &StopFields) -> Result<(), RequestError> {
    within("max_tokens", fields.max_tokens, 1, MAX_TOKENS)?;
    let most = fields.max_tokens.unwrap_or(MAX_TOKENS);
    within("min_tokens", fields.min_tokens, 0, most)?;
    if let Some(stop) = &fields.stop {
        at_most("stop", "strings", stop.0.len(), MAX_STOP_STRINGS)?;
        for (i, text) in stop.0.iter().enumerate() {
            let param = format!("stop[{i}]");
            if text.is_empty() {
                let message = format!("`{param}` is empty; every text contains it");
                return Err(RequestError::invalid(param, message));
            }
            at_most(&param, "bytes", text.len(), MAX_STOP_BYTES)?;
        }
    }
    let tokens = fields.stop_token_ids.as_ref().map_or(0, Vec::len);
    at_most("stop_token_ids", "tokens", tokens, MAX_STOP_TOKENS)
}

/// Ranges of the fields about the response.
pub(super) fn check_output(fields: &OutputFields) -> Result<(), RequestError> {
    within("n", fields.n, 1, MAX_CHOICES)?;
    if fields.stream_options.is_some() && !fields.is_stream() {
        return Err(RequestError::invalid(
            "stream_options",
            "`stream_options` needs `stream` to be true",
        ));
    }
    Ok(())
}

/// Range of the number of sequences.
pub(super) fn check_choices(prompts: usize, choices: u32) -> Result<(), RequestError> {
    let all = prompts.saturating_mul(choices as usize);
    if all > MAX_CHOICES as usize {
        return Err(RequestError::invalid(
            "prompt",
            format!("prompts times `n` must be at most {MAX_CHOICES}, got {all}"),
        ));
    }
    Ok(())
}

/// Range of `top_logprobs`, which needs `logprobs`.
pub(super) fn check_chat_logprobs(
    logprobs: Option<bool>,
    top: Option<u32>,
) -> Result<Option<u32>, RequestError> {
    within("top_logprobs", top, 0, MAX_TOP_LOGPROBS)?;
    match (logprobs, top) {
        (Some(true), top) => Ok(Some(top.unwrap_or(0))),
        (_, Some(1..)) => Err(RequestError::invalid(
            "top_logprobs",
            "`top_logprobs` needs `logprobs` to be true",
        )),
        _ => Ok(None),
    }
}

/// Range of a plain completion's `logprobs`.
pub(super) fn check_completion_logprobs(logprobs: Option<u32>) -> Result<(), RequestError> {
    within("logprobs", logprobs, 0, MAX_COMPLETION_LOGPROBS)
}

/// Length of a cache salt.
pub(super) fn check_salt(salt: Option<&str>) -> Result<(), RequestError> {
    match salt {
        Some("") => Err(RequestError::invalid(
            "cache_salt",
            "`cache_salt` is empty; leave it out to share the cache",
        )),
        Some(salt) => at_most("cache_salt", "bytes", salt.len(), MAX_SALT_BYTES),
        None => Ok(()),
    }
}

/// Whether prompt and answer fit; how many tokens the answer may have at most.
pub(super) fn check_context(
    prompt: usize,
    max_tokens: Option<u32>,
    context: u32,
    limits: PreprocessLimits,
) -> Result<u32, RequestError> {
    check_prompt(prompt, limits)?;
    let room = u32::try_from(prompt)
        .ok()
        .and_then(|prompt| context.checked_sub(prompt))
        .filter(|room| *room > 0);
    let Some(room) = room else {
        return too_long(format!(
            "the prompt has {prompt} tokens and the model's context is {context} tokens for \
             prompt and answer together; shorten the prompt"
        ));
    };
    match max_tokens {
        Some(asked) if asked > room => too_long(format!(
            "the prompt has {prompt} tokens and the answer may have {asked}, {} together; the \
             model's context is {context} tokens: shorten the prompt or ask for at most {room}",
            prompt as u64 + u64::from(asked)
        )),
        _ => Ok(room),
    }
}

/// Whether an input that gets no answer fits.
pub(super) fn check_input(
    input: usize,
    context: u32,
    limits: PreprocessLimits,
) -> Result<(), RequestError> {
    check_prompt(input, limits)?;
    if input > context as usize {
        return too_long(format!(
            "an input has {input} tokens and the model's context is {context}; shorten it"
        ));
    }
    Ok(())
}

fn check_prompt(prompt: usize, limits: PreprocessLimits) -> Result<(), RequestError> {
    match limits.max_prompt_tokens {
        Some(most) if prompt > most as usize => too_long(format!(
            "the prompt has {prompt} tokens and this service takes at most {most}; shorten it"
        )),
        _ => Ok(()),
    }
}

fn too_long<T>(message: String) -> Result<T, RequestError> {
    Err(RequestError::new(ErrorCode::ContextLengthExceeded, message).with_param("prompt"))
}

/// Checks `least <= value <= most`.
pub(super) fn within<T>(
    param: &str,
    value: Option<T>,
    least: T,
    most: T,
) -> Result<(), RequestError>
where
    T: PartialOrd + Display + Copy,
{
    match value {
        Some(value) if !(value >= least && value <= most) => Err(RequestError::invalid(
            param,
            format!("`{param}` must be between {least} and {most}, got {value}"),
        )),
        _ => Ok(()),
    }
}

fn above_zero(param: &str, value: Option<f64>, most: f64) -> Result<(), RequestError> {
    match value {
        Some(value) if !(value > 0.0 && value <= most) => Err(RequestError::invalid(
            param,
            format!("`{param}` must be above 0 and at most {most}, got {value}"),
        )),
        _ => Ok(()),
    }
}

/// Checks a number of things.
pub(super) fn at_most(
    param: &str,
    what: &str,
    count: usize,
    most: usize,
) -> Result<(), RequestError> {
    if count > most {
        return Err(RequestError::invalid(
            param,
            format!("`{param}` may have at most {most} {what}, got {count}"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::openai::prompt::Strings;

    #[test]
    fn values_outside_their_range_name_field_range_and_value() {
        let sampling = SamplingFields {
            temperature: Some(99.0),
            ..SamplingFields::default()
        };
        assert_eq!(
            check_sampling(&sampling).unwrap_err().message,
            "`temperature` must be between 0 and 2, got 99"
        );
        for top_p in [0.0, -0.5, 1.5] {
            let sampling = SamplingFields {
                top_p: Some(top_p),
                ..SamplingFields::default()
            };
            assert_eq!(
                check_sampling(&sampling).unwrap_err().param.as_deref(),
                Some("top_p")
            );
        }
        let stop = StopFields {
            max_tokens: Some(4),
            min_tokens: Some(5),
            ..StopFields::default()
        };
        assert_eq!(
            check_stopping(&stop).unwrap_err().param.as_deref(),
            Some("min_tokens")
        );
        let stop = StopFields {
            stop: Some(Strings(vec!["a".to_owned(), String::new()])),
            ..StopFields::default()
        };
        assert_eq!(
            check_stopping(&stop).unwrap_err().param.as_deref(),
            Some("stop[1]")
        );
        assert!(check_choices(64, 2).is_ok());
        assert!(check_choices(64, 3).is_err());
    }

    #[test]
    fn the_borders_of_ranges_are_inside() {
        let sampling = SamplingFields {
            temperature: Some(2.0),
            top_p: Some(1.0),
            top_k: Some(-1),
            min_p: Some(0.0),
            frequency_penalty: Some(-2.0),
            presence_penalty: Some(2.0),
            repetition_penalty: Some(2.0),
            seed: Some(i64::MIN),
            logit_bias: None,
        };
        assert_eq!(check_sampling(&sampling), Ok(()));
    }

    #[test]
    fn a_context_error_states_limit_and_counts() {
        let limits = PreprocessLimits::default();
        assert_eq!(check_context(90, None, 100, limits), Ok(10));
        assert_eq!(check_context(90, Some(10), 100, limits), Ok(10));
        let error = check_context(90, Some(11), 100, limits).unwrap_err();
        assert_eq!(error.code, ErrorCode::ContextLengthExceeded);
        for number in ["90", "11", "101", "100", "10"] {
            assert!(error.message.contains(number), "{error}");
        }
        assert!(check_context(100, None, 100, limits).is_err());
        assert!(check_context(usize::MAX, Some(1), 100, limits).is_err());
        let tight = PreprocessLimits {
            max_prompt_tokens: Some(5),
        };
        assert!(check_context(6, None, 100, tight).is_err());
    }

    #[test]
    fn alternatives_need_log_probabilities() {
        assert_eq!(check_chat_logprobs(Some(true), None), Ok(Some(0)));
        assert_eq!(check_chat_logprobs(Some(true), Some(20)), Ok(Some(20)));
        assert_eq!(check_chat_logprobs(None, None), Ok(None));
        assert_eq!(check_chat_logprobs(Some(false), Some(0)), Ok(None));
        assert!(check_chat_logprobs(Some(false), Some(1)).is_err());
        assert!(check_chat_logprobs(Some(true), Some(21)).is_err());
    }
}
