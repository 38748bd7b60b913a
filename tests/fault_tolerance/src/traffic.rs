//! What is asked: a seeded mixture of streaming requests. Pure.
//!
//! Every answer is a function of its request alone, on simulated workers and on the deterministic
//! real engine, so that the text of an undisturbed run is the measure of every other one. All have
//! a seed, those at temperature 0 as well: simulated workers draw from it.

use crate::draws::Draws;
use serde_json::{Value, json};

/// Openings that several prompts share: their blocks are in workers' caches.
const OPENINGS: usize = 8;

const WORDS: &[&str] = &[
    "river", "stone", "the", "of", "a", "light", "under", "seven", "old", "walks", "garden",
    "because", "never", "small", "engine", "paper", "and", "north", "window", "quiet", "bread",
    "counts", "morning", "between", "letters", "ship", "who", "glass", "winter", "field",
];

/// Texts that end some answers: short ones, so that they are met.
const STOPS: &[&str] = &["ing", " the", "er", ". ", "ation"];

/// How much is asked of a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    /// The model's name.
    pub model: String,
    /// Words of a shared opening.
    pub opening: usize,
    /// Least and most words after it.
    pub words: (usize, usize),
    /// Least and most tokens of an answer.
    pub tokens: (usize, usize),
    /// Whether the model has a chat template.
    pub chats: bool,
}

/// A streaming request.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Where it is sent.
    pub path: &'static str,
    /// JSON.
    pub body: String,
}

impl Mixture {
    /// Requests 0 to `count`.
    pub fn questions(&self, seed: u64, count: u32) -> Vec<Question> {
        (0..count)
            .map(|number| self.question(seed, number))
            .collect()
    }

    fn question(&self, seed: u64, number: u32) -> Question {
        let mut draws = Draws::new(seed, number);
        let prompt = self.prompt(seed, &mut draws);
        let is_chat = self.chats && draws.happens(0.3);
        let max_tokens = draws.between(self.tokens.0, self.tokens.1);
        let mut body = json!({
            "model": self.model,
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": max_tokens,
            "seed": draws.between(1, 1_000_000),
            "temperature": 0,
        });
        if draws.happens(0.5) {
            body["temperature"] = json!(0.8);
            body["top_p"] = json!(0.9);
        }
        if draws.happens(0.1) {
            body["frequency_penalty"] = json!(0.5);
            body["presence_penalty"] = json!(0.2);
        }
        if draws.happens(0.1) {
            body["n"] = json!(2);
        } else {
            body["nvext"] = json!({"extra_fields": ["completion_token_ids", "stop_reason"]});
        }
        if draws.happens(0.15) {
            body["stop"] = json!([draws.one_of(STOPS), draws.one_of(STOPS)]);
        }
        if draws.happens(0.7) {
            body["ignore_eos"] = json!(true);
        }
        let wants_logprobs = draws.happens(0.15);
        match is_chat {
            true => chat(&mut body, &prompt, wants_logprobs),
            false => completion(&mut body, &prompt, wants_logprobs),
        }
        Question {
            path: match is_chat {
                true => "/v1/chat/completions",
                false => "/v1/completions",
            },
            body: body.to_string(),
        }
    }

    fn prompt(&self, seed: u64, draws: &mut Draws) -> String {
        let shared = u32::MAX - draws.between(0, OPENINGS - 1) as u32;
        let opening = words(&mut Draws::new(seed, shared), self.opening);
        let count = draws.between(self.words.0, self.words.1);
        format!("{opening}. {}", words(draws, count))
    }
}

fn words(draws: &mut Draws, count: usize) -> String {
    let words: Vec<&str> = (0..count).map(|_| *draws.one_of(WORDS)).collect();
    words.join(" ")
}

fn chat(body: &mut Value, prompt: &str, wants_logprobs: bool) {
    body["messages"] = json!([{"role": "user", "content": prompt}]);
    if wants_logprobs {
        body["logprobs"] = json!(true);
        body["top_logprobs"] = json!(2);
    }
}

fn completion(body: &mut Value, prompt: &str, wants_logprobs: bool) {
    body["prompt"] = json!(prompt);
    if wants_logprobs {
        body["logprobs"] = json!(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mixture() -> Mixture {
        Mixture {
            model: "mock".to_owned(),
            opening: 20,
            words: (5, 30),
            tokens: (10, 40),
            chats: true,
        }
    }

    #[test]
    fn a_seed_decides_the_questions_and_all_kinds_are_among_them() {
        let questions = mixture().questions(1, 200);
        assert_eq!(questions, mixture().questions(1, 200));
        assert_ne!(questions, mixture().questions(2, 200));
        let bodies: Vec<Value> = questions
            .iter()
            .map(|it| serde_json::from_str(&it.body).unwrap())
            .collect();
        for field in [
            "n",
            "stop",
            "logprobs",
            "messages",
            "prompt",
            "top_p",
            "ignore_eos",
        ] {
            let with = bodies.iter().filter(|body| !body[field].is_null()).count();
            assert!((5..200).contains(&with), "{field}: {with}");
        }
        assert!(bodies.iter().all(|body| body["seed"].is_u64()));
    }

    #[test]
    fn prompts_share_their_beginnings() {
        let mut openings: Vec<String> = mixture()
            .questions(1, 100)
            .iter()
            .filter_map(|it| {
                let body: Value = serde_json::from_str(&it.body).unwrap();
                let prompt = body["prompt"].as_str()?.to_owned();
                Some(prompt.split(". ").next()?.to_owned())
            })
            .collect();
        openings.sort();
        openings.dedup();
        assert_eq!(openings.len(), OPENINGS);
    }
}
