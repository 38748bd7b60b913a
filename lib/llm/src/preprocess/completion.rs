//! Plain completions: prompts in any of their four forms.

use super::{
    Common, Fields, Prepared, PreprocessLimits, PromptTokens, compute, limits,
    sampling::check_token, unsupported,
};
use crate::model::ServedModel;
use dynamo_protocols::engine::TokenId;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::completions::CompletionFields;
use dynamo_protocols::openai::{CompletionRequest, Prompt};
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_runtime::environment::Environment;
use std::sync::Arc;

/// A prompt's tokens, and its text if it came as one.
pub(super) type Tokenised = (Vec<TokenId>, Option<String>);

pub(super) async fn prepare(
    request: CompletionRequest,
    model: Arc<ServedModel>,
    limits: PreprocessLimits,
    environment: &Environment,
) -> Result<Prepared, RequestError> {
    if !model.card.model_types.completions {
        return Err(unsupported("model", "names a model without completions"));
    }
    let CompletionRequest {
        prompt,
        mut completion,
        sampling,
        guided,
        stopping,
        output,
        mut service,
        ..
    } = request;
    let choices = output.n.unwrap_or(1);
    check_fields(&completion, choices)?;
    let prompt = match service
        .nvext
        .as_mut()
        .and_then(|nvext| nvext.token_data.take())
    {
        Some(tokens) => Prompt::Tokens(tokens),
        None => prompt,
    };
    let fields = Fields {
        sampling,
        response_format: completion.response_format.take(),
        guided,
        stopping,
        output,
        service,
    };
    let mut common = Common::new(fields, &model, environment)?;
    common.logprobs = completion.logprobs;
    limits::check_choices(prompt.len(), choices)?;
    let special = completion.add_special_tokens.unwrap_or(true);
    let echo = completion.echo == Some(true);
    let tokenizer = Arc::clone(&model.tokenizer);
    let skip_special = common.text.skip_special_tokens;
    let quick = bytes(&prompt) <= tokenizer.quick_bytes();
    let prompts = compute(environment, quick, move || {
        let echo = echo.then_some(skip_special);
        tokenise(&*tokenizer, "prompt", prompt, special)?
            .into_iter()
            .map(|(ids, text)| echoed(&*tokenizer, ids, text, echo))
            .collect::<Result<Vec<_>, _>>()
    })
    .await?;
    common.into_prepared(model, prompts, limits)
}

fn check_fields(fields: &CompletionFields, choices: u32) -> Result<(), RequestError> {
    limits::check_completion_logprobs(fields.logprobs)?;
    if fields
        .best_of
        .is_some_and(|best_of| best_of > choices.max(1))
    {
        return Err(unsupported(
            "best_of",
            "above `n` is not served; raise `n` instead",
        ));
    }
    if fields.best_of.is_some_and(|best_of| best_of < choices) {
        return Err(RequestError::invalid(
            "best_of",
            "`best_of` must be at least `n`",
        ));
    }
    if fields.echo == Some(true) && fields.logprobs.is_some() {
        return Err(unsupported(
            "echo",
            "with `logprobs` is not served: prompts have no log probabilities here",
        ));
    }
    Ok(())
}

/// The prompts' tokens, each with its text if it came as one. Names the prompt at fault.
pub(super) fn tokenise(
    tokenizer: &dyn Tokenizer,
    param: &str,
    prompt: Prompt,
    special: bool,
) -> Result<Vec<Tokenised>, RequestError> {
    let text = |text: String| Ok((encode(tokenizer, &text, special)?, Some(text)));
    let known = |ids: Vec<TokenId>| {
        for id in &ids {
            check_token(param, *id, tokenizer.vocab_size())?;
        }
        Ok((ids, None))
    };
    let prompts: Vec<_> = match prompt {
        Prompt::Text(one) => vec![text(one)?],
        Prompt::Texts(all) => all
            .into_iter()
            .map(text)
            .collect::<Result<_, RequestError>>()?,
        Prompt::Tokens(one) => vec![known(one)?],
        Prompt::TokenLists(all) => all
            .into_iter()
            .map(known)
            .collect::<Result<_, RequestError>>()?,
    };
    if prompts.is_empty() || prompts.iter().any(|(ids, _)| ids.is_empty()) {
        let message = format!("`{param}` has no tokens; send at least one");
        return Err(RequestError::invalid(param, message));
    }
    Ok(prompts)
}

/// Encodes text. A tokenizer that cannot is misconfigured: every text has tokens.
pub(super) fn encode(
    tokenizer: &dyn Tokenizer,
    text: &str,
    special: bool,
) -> Result<Vec<TokenId>, RequestError> {
    tokenizer
        .encode(text, special)
        .map_err(|error| RequestError::new(ErrorCode::Internal, error.to_string()))
}

/// A prompt, and its text if `echo` asks for it (and says whether to skip special tokens).
fn echoed(
    tokenizer: &dyn Tokenizer,
    ids: Vec<TokenId>,
    text: Option<String>,
    echo: Option<bool>,
) -> Result<PromptTokens, RequestError> {
    let echo = match (echo, text) {
        (None, _) => String::new(),
        (Some(_), Some(text)) => text,
        (Some(skip_special), None) => tokenizer
            .decode(&ids, skip_special)
            .map_err(|error| RequestError::new(ErrorCode::Internal, error.to_string()))?,
    };
    Ok(PromptTokens {
        ids: ids.into(),
        echo,
        template: None,
    })
}

/// Bytes of text to tokenise.
pub(super) fn bytes(prompt: &Prompt) -> usize {
    match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Texts(texts) => texts.iter().map(String::len).sum(),
        Prompt::Tokens(_) | Prompt::TokenLists(_) => 0,
    }
}
