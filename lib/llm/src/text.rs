//! Answers of workers that take clients' requests as they are.
//!
//! What such a worker gives are the chunks that the client gets. They are checked on their way:
//! a client never sees what its library cannot read, and an answer ends whole or with one error.
//!
//! Invariants
//! - Chunks go on as they came, one line of JSON each.
//! - An answer ends well only when each of its choices has said why it ended.

mod fold;

pub use fold::Folded;

use crate::model::ServedModel;
use dynamo_protocols::engine::{EngineRequest, EngineStream, RequestContext, TextRequest};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::Usage;
use dynamo_protocols::openai::chunk::{self, ChunkFacts};
use dynamo_protocols::openai::gist::Gist;
use dynamo_protocols::openai::stream::Api;
use futures_core::Stream;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// An answer on its way.
pub struct TextAnswer {
    api: Api,
    /// `None` once it has ended.
    stream: Option<EngineStream>,
    choices: Choices,
    usage: Option<Usage>,
    /// Chunks that added to a choice.
    chunks: u64,
}

/// A chunk of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextChunk {
    /// Its JSON, in one line.
    pub json: Box<str>,
    /// Whether it adds to a choice.
    pub is_content: bool,
}

/// The choices of an answer, as bits: there are as many at most.
#[derive(Debug, Clone, Copy, Default)]
struct Choices {
    begun: u128,
    finished: u128,
}

const _: () = assert!(chunk::MAX_CHOICES <= u128::BITS);

impl fmt::Debug for TextAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextAnswer")
            .field("api", &self.api)
            .field("choices", &self.choices)
            .finish_non_exhaustive()
    }
}

/// Checks what can be checked of a request without knowing what its worker makes of it.
pub fn check(model: &ServedModel, api: Api, body: &[u8]) -> Result<Gist, RequestError> {
    let gist = Gist::read(api, body)?;
    let types = model.card.model_types;
    let (is_served, what) = match api {
        Api::Chat => (types.chat, "chat"),
        Api::Completions => (types.completions, "completions"),
    };
    match is_served {
        true => Ok(gist),
        false => Err(RequestError::new(
            ErrorCode::UnsupportedParameter,
            format!("`model` names a model without {what}"),
        )
        .with_param("model")),
    }
}

impl TextAnswer {
    /// Hands the request to the model's engine. Resolves when it was taken.
    pub async fn start(
        model: &ServedModel,
        api: Api,
        body: String,
        context: RequestContext,
    ) -> Result<Self, RequestError> {
        let request = EngineRequest {
            model: Arc::from(model.card.name.as_str()),
            lora_name: model.card.lora.as_deref().map(Arc::from),
            text: Some(Arc::new(TextRequest {
                api,
                body: body.into(),
            })),
            ..EngineRequest::default()
        };
        let stream = model.engine.generate(request, context).await?;
        Ok(Self {
            api,
            stream: Some(stream),
            choices: Choices::default(),
            usage: None,
            chunks: 0,
        })
    }

    /// Token counts: the worker's where it gives any, else one token for each chunk.
    pub fn usage(&self) -> Usage {
        self.usage.unwrap_or(Usage::new(0, self.chunks, 0))
    }

    fn chunk(&mut self, json: Box<str>) -> Result<TextChunk, RequestError> {
        let ChunkFacts { choices, usage } = chunk::read(self.api, &json).map_err(|error| {
            let message = format!(
                "the worker gave a chunk that no client can read: {}",
                error.message
            );
            RequestError::new(ErrorCode::WorkerProtocol, message)
        })?;
        self.usage = usage.or(self.usage);
        let is_content = !choices.is_empty();
        self.chunks += u64::from(is_content);
        for choice in choices {
            self.choices.begun |= 1 << choice.index;
            self.choices.finished |= u128::from(choice.is_finished) << choice.index;
        }
        Ok(TextChunk {
            json: one_line(json),
            is_content,
        })
    }

    /// Whether the answer may end here.
    fn judge_end(&self) -> Result<(), RequestError> {
        let Choices { begun, finished } = self.choices;
        let open = begun & !finished;
        let message = match (begun, open) {
            (0, _) => {
                "the worker's answer has no choices: its handler yielded no chunk that has any"
                    .to_owned()
            }
            (_, 0) => return Ok(()),
            _ => format!(
                "the worker ended its answer before choice {} had a finish_reason",
                open.trailing_zeros()
            ),
        };
        Err(RequestError::new(ErrorCode::WorkerProtocol, message))
    }
}

impl Stream for TextAnswer {
    type Item = Result<TextChunk, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let Some(stream) = &mut this.stream else {
                return Poll::Ready(None);
            };
            let given = match ready!(stream.as_mut().poll_next(cx)) {
                Some(Ok(output)) => match (output.chunk, output.finish_reason) {
                    (Some(json), _) => this.chunk(json).map(Some),
                    (None, Some(_)) => this.judge_end().map(|()| None),
                    // Nothing that concerns the client.
                    (None, None) if output.token_ids.is_empty() => continue,
                    (None, None) => Err(RequestError::new(
                        ErrorCode::WorkerProtocol,
                        "the worker gave tokens where its model's card promises text",
                    )),
                },
                Some(Err(error)) => Err(error),
                None => Err(RequestError::new(
                    ErrorCode::WorkerLost,
                    "the worker went away before the answer was complete; send the request again",
                )),
            };
            if !matches!(given, Ok(Some(_))) {
                this.stream = None;
            }
            return Poll::Ready(given.transpose());
        }
    }
}

/// The same JSON without line breaks, which would break the event that it goes out as. Within texts
/// they are written otherwise, so that what is left is layout.
fn one_line(json: Box<str>) -> Box<str> {
    match json.contains(['\n', '\r']) {
        false => json,
        true => json.replace(['\n', '\r'], " ").into(),
    }
}

#[cfg(test)]
mod tests;
