//! Chat: messages to a prompt through the model's template.

use super::{
    Common, Fields, Prepared, PreprocessLimits, PromptTokens, compute, limits, messages,
    sampling::check_token, unsupported,
};
use crate::model::ServedModel;
use crate::template::{self, ChatTemplate, RenderInput, TemplateError};
use dynamo_protocols::engine::TokenId;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::ChatRequest;
use dynamo_protocols::openai::chat::ChatFields;
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_runtime::environment::Environment;
use serde_json::{Map, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Where the prompt's tokens come from.
enum Source {
    /// The client sent them.
    Tokens(Vec<TokenId>),
    /// The messages' text as it is.
    Raw(Value),
    /// The messages through the template.
    Template(Rendering),
}

/// What the template is rendered with.
struct Rendering {
    template: Arc<ChatTemplate>,
    messages: Value,
    add_generation_prompt: bool,
    continue_final_message: bool,
    kwargs: Map<String, Value>,
    now: Duration,
}

pub(super) async fn prepare(
    request: ChatRequest,
    model: Arc<ServedModel>,
    limits: PreprocessLimits,
    environment: &Environment,
) -> Result<Prepared, RequestError> {
    if !model.card.model_types.chat {
        return Err(unsupported(
            "model",
            "names a model without chat; use /v1/completions",
        ));
    }
    let ChatRequest {
        messages,
        mut chat,
        sampling,
        guided,
        mut stopping,
        output,
        mut service,
        ..
    } = request;
    check_unserved(&chat)?;
    stopping.max_tokens = max_tokens(chat.max_completion_tokens, stopping.max_tokens)?;
    let logprobs = limits::check_chat_logprobs(chat.logprobs, chat.top_logprobs)?;
    let nvext = service.nvext.get_or_insert_default();
    let (tokens, raw) = (nvext.token_data.take(), nvext.use_raw_prompt == Some(true));
    let fields = Fields {
        sampling,
        response_format: chat.response_format.take(),
        guided,
        stopping,
        output,
        service,
    };
    let mut common = Common::new(fields, &model, environment)?;
    common.logprobs = logprobs;
    let source = match tokens {
        Some(tokens) => Source::Tokens(tokens),
        None if raw => Source::Raw(messages::wire_form(messages)?),
        None => {
            let now = environment.clock.unix_time();
            let messages = messages::wire_form(messages)?;
            Source::Template(rendering(messages, &mut chat, &model, now)?)
        }
    };
    let (ids, template) = source.into_ids(&model.tokenizer, environment).await?;
    let prompt = PromptTokens {
        ids: ids.into(),
        echo: String::new(),
        template,
    };
    common.into_prepared(model, vec![prompt], limits)
}

impl Source {
    /// Bytes of text to render and tokenise, roughly.
    fn bytes(&self) -> usize {
        match self {
            Self::Tokens(_) => 0,
            Self::Raw(messages) => messages::text_bytes(messages),
            Self::Template(rendering) => messages::text_bytes(&rendering.messages),
        }
    }

    /// The prompt's tokens, and the time it took to render it.
    async fn into_ids(
        self,
        tokenizer: &Arc<dyn Tokenizer>,
        environment: &Environment,
    ) -> Result<(Vec<TokenId>, Option<Duration>), RequestError> {
        let tokenizer = Arc::clone(tokenizer);
        let quick = self.bytes() <= tokenizer.quick_bytes();
        let (ids, template) = compute(environment, quick, move || match self {
            Self::Tokens(ids) => {
                for id in &ids {
                    check_token("nvext.token_data", *id, tokenizer.vocab_size())?;
                }
                Ok((ids, None))
            }
            Self::Raw(messages) => {
                let text = template::raw_text(&messages);
                Ok((super::completion::encode(&*tokenizer, &text, true)?, None))
            }
            Self::Template(rendering) => {
                let began = Instant::now();
                let text = rendering.render()?;
                let template = began.elapsed();
                let ids = super::completion::encode(&*tokenizer, &text, false)?;
                Ok((ids, Some(template)))
            }
        })
        .await?;
        if ids.is_empty() {
            return Err(RequestError::invalid(
                "messages",
                "the prompt has no tokens; send a message with text",
            ));
        }
        Ok((ids, template))
    }
}

impl Rendering {
    fn render(self) -> Result<String, RequestError> {
        self.template
            .render(&RenderInput {
                messages: &self.messages,
                tools: None,
                add_generation_prompt: self.add_generation_prompt,
                continue_final_message: self.continue_final_message,
                kwargs: &self.kwargs,
                now: self.now,
            })
            .map_err(|error| template_error(&error))
    }
}

/// Whose mistake a failing template is: the client's, unless the template itself is malformed.
fn template_error(error: &TemplateError) -> RequestError {
    match error {
        TemplateError::Malformed { .. } | TemplateError::NoDefault => {
            RequestError::new(ErrorCode::Internal, error.to_string())
        }
        TemplateError::CannotContinue { .. } => {
            RequestError::invalid("continue_final_message", error.to_string())
        }
        _ => RequestError::new(ErrorCode::TemplateError, error.to_string()).with_param("messages"),
    }
}

fn rendering(
    messages: Value,
    chat: &mut ChatFields,
    model: &ServedModel,
    now: Duration,
) -> Result<Rendering, RequestError> {
    let template = model.template.clone().ok_or_else(|| {
        unsupported(
            "model",
            "names a model without a chat template; use /v1/completions",
        )
    })?;
    let continue_final_message = chat.continue_final_message == Some(true);
    if continue_final_message && chat.add_generation_prompt == Some(true) {
        return Err(RequestError::invalid(
            "continue_final_message",
            "`continue_final_message` and `add_generation_prompt` exclude each other",
        ));
    }
    let mut kwargs = match (
        chat.chat_template_kwargs.take(),
        chat.chat_template_args.take(),
    ) {
        (Some(_), Some(_)) => {
            return Err(RequestError::invalid(
                "chat_template_args",
                "`chat_template_args` and `chat_template_kwargs` are one field; send one of them",
            ));
        }
        (kwargs, args) => kwargs.or(args).unwrap_or_default(),
    };
    if let Some(effort) = chat.reasoning_effort.take() {
        let effort = Value::String(effort);
        kwargs.entry("reasoning_effort").or_insert(effort);
    }
    Ok(Rendering {
        template,
        messages,
        add_generation_prompt: chat
            .add_generation_prompt
            .unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs,
        now,
    })
}

/// Fields that are served for one value only.
fn check_unserved(chat: &ChatFields) -> Result<(), RequestError> {
    if chat.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return Err(unsupported(
            "tools",
            "is not served by this version; leave it out",
        ));
    }
    if let Some(choice) = &chat.tool_choice
        && choice != "none"
        && choice != "auto"
    {
        return Err(unsupported(
            "tool_choice",
            "is served as `none` or `auto` only",
        ));
    }
    if chat.modalities.iter().flatten().any(|kind| kind != "text") {
        return Err(unsupported("modalities", "is served as `text` only"));
    }
    Ok(())
}

/// One number under two names.
fn max_tokens(newer: Option<u32>, older: Option<u32>) -> Result<Option<u32>, RequestError> {
    match (newer, older) {
        (Some(newer), Some(older)) if newer != older => Err(RequestError::invalid(
            "max_completion_tokens",
            "`max_completion_tokens` and `max_tokens` differ; send one of them",
        )),
        _ => Ok(newer.or(older)),
    }
}
