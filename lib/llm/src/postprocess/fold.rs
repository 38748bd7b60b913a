//! A whole answer at once: the stream, folded.

use super::{ChoiceDelta, Generation};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::chat::{AssistantMessage, ChatChoice, ChatLogprobs};
use dynamo_protocols::openai::completions::CompletionChoice;
use dynamo_protocols::openai::logprobs::TokenLogprob;
use dynamo_protocols::openai::nvext::NvExtResponse;
use dynamo_protocols::openai::{ChatCompletion, Completion, Usage};
use futures_util::StreamExt;

/// A complete answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    /// The choices, in order.
    pub choices: Vec<FoldedChoice>,
    /// Token counts.
    pub usage: Usage,
}

/// A complete choice.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoldedChoice {
    /// Its text.
    pub text: String,
    /// Log probabilities, if asked for.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub finish: &'static str,
    /// Facts that were asked for.
    pub extra: Option<NvExtResponse>,
}

impl Generation {
    /// Waits for the whole answer; shows each delta to `observe`.
    pub async fn fold(
        mut self,
        mut observe: impl FnMut(&ChoiceDelta),
    ) -> Result<Folded, RequestError> {
        let mut choices = vec![FoldedChoice::default(); self.choices()];
        while let Some(delta) = self.next().await {
            let delta = delta?;
            observe(&delta);
            let choice = &mut choices[delta.index as usize];
            choice.text.push_str(&delta.text);
            if let Some(logprobs) = delta.logprobs {
                choice.logprobs.get_or_insert_default().extend(logprobs);
            }
            if let Some(finish) = delta.finish {
                choice.finish = finish;
                choice.extra = delta.extra;
            }
        }
        Ok(Folded {
            choices,
            usage: self.usage(),
        })
    }
}

impl Folded {
    /// As a chat response.
    pub fn into_chat(self, id: String, model: String, created: u64) -> ChatCompletion {
        let mut nvext = None;
        let choices = (0_u32..)
            .zip(self.choices)
            .map(|(index, choice)| {
                nvext = nvext.take().or(choice.extra);
                ChatChoice {
                    index,
                    message: AssistantMessage {
                        role: "assistant",
                        content: (!choice.text.is_empty()).then_some(choice.text),
                        refusal: None,
                    },
                    logprobs: choice.logprobs.map(|content| ChatLogprobs {
                        content,
                        refusal: None,
                    }),
                    finish_reason: choice.finish,
                }
            })
            .collect();
        ChatCompletion {
            id,
            object: "chat.completion",
            created,
            model,
            choices,
            usage: self.usage,
            nvext,
        }
    }

    /// As a plain completion.
    pub fn into_completion(self, id: String, model: String, created: u64) -> Completion {
        let mut nvext = None;
        let choices = (0_u32..)
            .zip(self.choices)
            .map(|(index, choice)| {
                nvext = nvext.take().or(choice.extra);
                CompletionChoice {
                    index,
                    text: choice.text,
                    logprobs: choice.logprobs,
                    finish_reason: choice.finish,
                }
            })
            .collect();
        Completion {
            id,
            object: "text_completion",
            created,
            model,
            choices,
            usage: self.usage,
            nvext,
        }
    }
}
