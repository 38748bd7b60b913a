//! Request bodies, written straight as JSON: words need no escapes, and a server's answer goes
//! into the next turn in the escaped form in which it came.

use super::words::write_words;
use crate::load::length::MAX_TOKENS;
use crate::load::plan::Source;
use crate::load::trace::BLOCK_TOKENS;
use crate::random::Stream;
use dynamo_config::choices;
use serde_json::{Map, Value, json};

choices! {
    /// Which of the server's interfaces is asked.
    pub enum Api {
        /// `/v1/chat/completions`
        Chat = "chat",
        /// `/v1/completions`
        Completions = "completions",
    }
}

/// What every request of a run has in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Asking {
    /// The interface.
    pub api: Api,
    /// The model's name.
    pub model: String,
    /// Whether answers come as they are made.
    pub stream: bool,
    /// Generate up to the token limit.
    pub ignore_eos: bool,
    /// Ask for as many tokens at least as at most.
    pub min_tokens: bool,
    /// Sampling temperature, if not the server's.
    pub temperature: Option<f64>,
    /// Further fields; they win over those above.
    pub extra: Map<String, Value>,
}

/// Makes bodies.
#[derive(Debug, Clone)]
pub struct Bodies {
    api: Api,
    min_tokens: bool,
    max_tokens: bool,
    words_per_token: f64,
    seed: u64,
    source: Source,
    /// The start of each body up to the model's name, and what follows after the prompt.
    head: String,
    tail: String,
}

/// What has been said in a conversation, in JSON: messages, or the inside of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dialogue {
    said: String,
}

impl Bodies {
    /// Bodies for prompts of `source`.
    pub fn new(asking: &Asking, source: Source, seed: u64, words_per_token: f64) -> Self {
        let mut fields = Map::new();
        fields.insert("stream".to_owned(), asking.stream.into());
        if asking.stream {
            let options = json!({"include_usage": true});
            fields.insert("stream_options".to_owned(), options);
        }
        if asking.ignore_eos {
            fields.insert("ignore_eos".to_owned(), true.into());
        }
        if let Some(temperature) = asking.temperature {
            fields.insert("temperature".to_owned(), temperature.into());
        }
        let has = |key: &str| asking.extra.contains_key(key);
        let max_tokens = !has("max_tokens") && !has("max_completion_tokens");
        let min_tokens = asking.min_tokens && !has("min_tokens");
        fields.extend(asking.extra.clone());
        let mut tail = String::new();
        for (key, value) in fields {
            tail.push_str(&format!(",{}:{value}", Value::String(key)));
        }
        tail.push('}');
        let model = Value::String(asking.model.clone());
        let opening = match asking.api {
            Api::Chat => "\"messages\":[",
            Api::Completions => "\"prompt\":\"",
        };
        Self {
            api: asking.api,
            min_tokens,
            max_tokens,
            words_per_token,
            seed,
            source,
            head: format!("{{\"model\":{model},{opening}"),
            tail,
        }
    }

    /// Says what a turn of a conversation says.
    pub fn say(&self, dialogue: &mut Dialogue, conversation: u64, turn: u32) {
        let said = &mut dialogue.said;
        if turn == 0
            && let Source::Synthetic(shape) = &self.source
            && let Some(prefix) = shape.prefix(conversation)
        {
            self.open(said, "system");
            let words = self.words(shape.prefix_tokens);
            write_words(said, self.seed, Stream::PrefixWords, prefix, words);
            self.close(said);
        }
        self.open(said, "user");
        match self.source.traced(conversation) {
            Some(request) => {
                self.write_blocks(said, conversation, request.input_tokens, &request.blocks)
            }
            None => {
                let tokens = self.source.turn(conversation, turn).input_tokens;
                // A number for each turn: conversations have fewer turns than that.
                let number = conversation.wrapping_mul(1 << 20) + u64::from(turn);
                write_words(said, self.seed, Stream::Words, number, self.words(tokens));
            }
        }
        self.close(said);
    }

    /// Says what the server answered, as it stood in its JSON.
    pub fn answer(&self, dialogue: &mut Dialogue, escaped: &str) {
        self.open(&mut dialogue.said, "assistant");
        dialogue.said.push_str(escaped);
        self.close(&mut dialogue.said);
    }

    /// The body that asks for an answer of so many tokens.
    pub fn body(&self, dialogue: &Dialogue, output_tokens: u32) -> String {
        const LIMITS: usize = 64;
        let length = self.head.len() + dialogue.said.len() + self.tail.len() + LIMITS;
        let mut body = String::with_capacity(length);
        body.push_str(&self.head);
        body.push_str(&dialogue.said);
        body.push(match self.api {
            Api::Chat => ']',
            Api::Completions => '"',
        });
        if self.max_tokens {
            body.push_str(&format!(",\"max_tokens\":{output_tokens}"));
        }
        if self.min_tokens {
            body.push_str(&format!(",\"min_tokens\":{output_tokens}"));
        }
        body.push_str(&self.tail);
        body
    }

    /// The text of a trace's blocks: the same for the same id, so that prefixes are shared as they
    /// were when the trace was recorded.
    fn write_blocks(&self, said: &mut String, conversation: u64, tokens: u32, blocks: &[u64]) {
        let mut left = tokens;
        for block in blocks {
            let words = self.words(left.min(BLOCK_TOKENS));
            write_words(said, self.seed, Stream::BlockWords, *block, words);
            left = left.saturating_sub(BLOCK_TOKENS);
        }
        // What no block covers is nobody else's.
        let words = match left {
            0 => 0,
            _ => self.words(left),
        };
        write_words(said, self.seed, Stream::Words, conversation, words);
    }

    /// How many words make so many tokens; one at least, for no server takes an empty prompt.
    fn words(&self, tokens: u32) -> u64 {
        let words = f64::from(tokens) * self.words_per_token;
        (words.round() as u64).clamp(1, u64::from(MAX_TOKENS))
    }

    fn open(&self, said: &mut String, role: &str) {
        if self.api == Api::Chat {
            if !said.is_empty() {
                said.push(',');
            }
            said.push_str(&format!("{{\"role\":\"{role}\",\"content\":\""));
        }
    }

    fn close(&self, said: &mut String) {
        if self.api == Api::Chat {
            said.push_str("\"}");
        }
    }
}

#[cfg(test)]
mod tests;
