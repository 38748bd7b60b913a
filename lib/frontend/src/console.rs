//! The console: a conversation in a terminal, and one prompt from standard input.
//!
//! It owns the conversation's history and what a turn does with it. Reading lines, writing text
//! and signals are the caller's.
//!
//! Invariants
//! - An answer that was cut off stays in the history as far as it was shown: the model and the
//!   user remember the same.
//! - A history that no longer fits the model's context loses its oldest turns, never the system
//!   prompt or the question at hand.

use crate::local::{Asked, LocalClient};
use dynamo_config::options;
use dynamo_protocols::openai::Usage;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_util::StreamExt;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

options! {
    /// Chat in a terminal, and one prompt from standard input.
    pub struct ConsoleOptions("console") {
        /// What the model is told before the first question.
        system_prompt: Option<String> = None, env = "DYN_SYSTEM_PROMPT";
        /// Sampling temperature; 0 always takes the most likely token.
        temperature: f32 = 0.7, env = "DYN_TEMPERATURE", range = 0.0..=2.0;
        /// Most tokens of an answer; if not given, what is left of the model's context.
        max_tokens: Option<u32> = None, env = "DYN_MAX_TOKENS", min = 1;
    }
}

/// A conversation with one model.
#[derive(Debug)]
pub struct Conversation {
    client: LocalClient,
    model: Arc<str>,
    /// Whether the model knows turns; a base model completes plain text.
    chats: bool,
    options: ConsoleOptions,
    /// Alternating questions and answers, oldest first.
    turns: VecDeque<Value>,
}

/// What an answer took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Token counts.
    pub usage: Usage,
    /// Time to the first text.
    pub first_token: Option<Duration>,
    /// Time to the last.
    pub elapsed: Duration,
    /// Whether it was cut off.
    pub cancelled: bool,
    /// Messages that were dropped from the history to make it fit.
    pub forgotten: usize,
}

impl Conversation {
    /// A conversation with the model of this name, or the only one there is.
    pub fn new(
        client: LocalClient,
        model: Option<&str>,
        options: ConsoleOptions,
    ) -> Result<Self, RequestError> {
        let (model, served) = client.model(model)?;
        Ok(Self {
            client,
            model,
            chats: served.template.is_some(),
            options,
            turns: VecDeque::new(),
        })
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the model answers turns rather than completing text.
    pub fn chats(&self) -> bool {
        self.chats
    }

    /// Asks, and shows the answer piece by piece to `show` until it is complete or `cancel` says
    /// to stop.
    pub async fn ask(
        &mut self,
        question: &str,
        cancel: &CancellationToken,
        mut show: impl FnMut(&str),
    ) -> Result<Turn, RequestError> {
        let started = Instant::now();
        let mut forgotten = 0;
        let Asked { mut generation, .. } = loop {
            match self.send(question).await {
                Err(error) if self.may_forget(&error) => {
                    // A question and its answer go together.
                    forgotten += self.turns.drain(..2.min(self.turns.len())).count();
                }
                asked => break asked?,
            }
        };
        let mut answer = String::new();
        let mut first_token = None;
        let cancelled = loop {
            let delta = tokio::select! {
                biased;
                () = cancel.cancelled() => break true,
                delta = generation.next() => delta,
            };
            let Some(delta) = delta else { break false };
            let delta = delta?;
            if !delta.text.is_empty() {
                first_token.get_or_insert_with(|| started.elapsed());
                show(&delta.text);
                answer.push_str(&delta.text);
            }
        };
        if self.chats {
            self.turns
                .push_back(json!({"role": "user", "content": question}));
            self.turns
                .push_back(json!({"role": "assistant", "content": answer}));
        }
        Ok(Turn {
            usage: generation.usage(),
            first_token,
            elapsed: started.elapsed(),
            cancelled,
            forgotten,
        })
    }

    fn may_forget(&self, error: &RequestError) -> bool {
        error.code == ErrorCode::ContextLengthExceeded && !self.turns.is_empty()
    }

    async fn send(&self, question: &str) -> Result<Asked, RequestError> {
        let id: Arc<str> = "console".into();
        let mut body = json!({
            "model": self.model.as_ref(),
            "temperature": self.options.temperature,
        });
        if let Some(most) = self.options.max_tokens {
            body["max_tokens"] = most.into();
        }
        if !self.chats {
            body["prompt"] = question.into();
            return self
                .client
                .completion(body.to_string().as_bytes(), id)
                .await;
        }
        let system = self.options.system_prompt.iter();
        let messages: Vec<Value> = system
            .map(|text| json!({"role": "system", "content": text}))
            .chain(self.turns.iter().cloned())
            .chain([json!({"role": "user", "content": question})])
            .collect();
        body["messages"] = messages.into();
        self.client.chat(body.to_string().as_bytes(), id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_llm::echo::EchoOptions;
    use dynamo_llm::echo_model::echo_model;
    use dynamo_llm::model::ServedModel;
    use dynamo_llm::preprocess::PreprocessLimits;
    use dynamo_llm::registry::ModelRegistry;
    use dynamo_llm::template::{ChatTemplate, SpecialTokens};
    use dynamo_runtime::Environment;

    /// Echoes the whole conversation, so that its history shows.
    fn conversation() -> Conversation {
        let everything = "{% for m in messages %}{{ m.content }}|{% endfor %}";
        let template = ChatTemplate::new(everything, SpecialTokens::new()).unwrap();
        let model = ServedModel {
            template: Some(Arc::new(template)),
            ..echo_model("echo", EchoOptions::default()).unwrap()
        };
        let registry = ModelRegistry::new();
        registry.add("echo", Arc::new(model));
        let limits = PreprocessLimits::default();
        let client = LocalClient::new(registry, Environment::system(), limits);
        Conversation::new(client, None, ConsoleOptions::default()).unwrap()
    }

    #[tokio::test]
    async fn the_history_is_part_of_the_next_question() {
        let mut conversation = conversation();
        let cancel = CancellationToken::new();
        let mut shown = String::new();
        conversation
            .ask("first", &cancel, |text| shown.push_str(text))
            .await
            .unwrap();
        assert!(shown.contains("first"));
        shown.clear();
        let turn = conversation
            .ask("second", &cancel, |text| shown.push_str(text))
            .await
            .unwrap();
        assert!(
            shown.contains("first") && shown.contains("second"),
            "{shown}"
        );
        assert!(!turn.cancelled && turn.first_token.is_some());
    }

    #[tokio::test]
    async fn a_cancelled_answer_is_remembered_as_far_as_it_was_shown() {
        let mut conversation = conversation();
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let mut shown = String::new();
        let turn = conversation
            .ask("a question", &cancel, |text| {
                shown.push_str(text);
                stop.cancel();
            })
            .await
            .unwrap();
        assert!(turn.cancelled);
        assert_eq!(conversation.turns[1]["content"], shown.as_str());
    }

    #[tokio::test]
    async fn a_history_beyond_the_context_loses_its_oldest_turns() {
        let mut conversation = conversation();
        let cancel = CancellationToken::new();
        let context = conversation
            .client
            .model(None)
            .unwrap()
            .1
            .card
            .context_length as usize;
        for _ in 0..4 {
            conversation
                .turns
                .push_back(json!({"role": "user", "content": "x".repeat(context / 2)}));
            conversation
                .turns
                .push_back(json!({"role": "assistant", "content": "y"}));
        }
        let turn = conversation
            .ask("still there?", &cancel, |_| {})
            .await
            .unwrap();
        assert!(turn.forgotten >= 2 && turn.forgotten % 2 == 0, "{turn:?}");
    }
}
