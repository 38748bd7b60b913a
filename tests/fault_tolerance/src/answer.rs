//! What a stream gave, and how it differs from what it should have given. Pure.

use serde_json::Value;

/// Most tokens in a row that count as lost or doubled and not as a text of another kind.
const LONGEST_SLIP: usize = 64;

/// Tokens that must agree after a slip, for it to be one.
const AGREEMENT: usize = 4;

/// An answer as far as it has come.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Answer {
    /// By index.
    pub choices: Vec<Choice>,
    /// Tokens of the prompt and of all choices, as counted by the server.
    pub usage: Option<(u64, u64)>,
    /// The code of its error event.
    pub error: Option<String>,
    /// Whether `[DONE]` came.
    pub is_done: bool,
}

/// One of an answer's choices.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Choice {
    /// The pieces of text, joined.
    pub text: String,
    /// Why it ended.
    pub finish: Option<String>,
    /// Ids of its tokens, where the server told them.
    pub tokens: Option<Vec<u64>>,
    /// What ended it, where the server told.
    pub stop_reason: Option<Value>,
    /// One entry per token, where they were asked for.
    pub logprobs: Vec<Value>,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Tokens that should be there and are not.
    pub lost: u64,
    /// Tokens that are there twice.
    pub doubled: u64,
    /// Whether anything at all is not as it should be.
    pub differs: bool,
}

impl Answer {
    /// Takes in an event. The choice that it went on with, if it did.
    pub fn add(&mut self, event: &Value) -> Option<usize> {
        if let Some(error) = event.get("error") {
            let code = error["code"].as_str().unwrap_or("an error without a code");
            self.error = Some(code.to_owned());
        }
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            let count = |name: &str| usage[name].as_u64().unwrap_or_default();
            self.usage = Some((count("prompt_tokens"), count("completion_tokens")));
        }
        let part = event["choices"].get(0)?;
        let index = usize::try_from(part["index"].as_u64()?).ok()?;
        while self.choices.len() <= index {
            self.choices.push(Choice::default());
        }
        let went_on = self.choices[index].add(part, &event["nvext"]);
        went_on.then_some(index)
    }

    /// How this differs from the answer to the same question in an undisturbed run.
    pub fn compare(&self, undisturbed: &Self) -> Difference {
        let mut difference = Difference {
            differs: self != undisturbed,
            ..Difference::default()
        };
        for (ours, theirs) in self.choices.iter().zip(&undisturbed.choices) {
            if let (Some(ours), Some(theirs)) = (&ours.tokens, &theirs.tokens) {
                let (lost, doubled) = slips(ours, theirs);
                difference.lost += lost;
                difference.doubled += doubled;
            }
        }
        let counted = |answer: &Self| answer.usage.map_or(0, |(_, completion)| completion);
        let (ours, theirs) = (counted(self), counted(undisturbed));
        difference.lost = difference.lost.max(theirs.saturating_sub(ours));
        difference.doubled = difference.doubled.max(ours.saturating_sub(theirs));
        difference
    }
}

impl Choice {
    fn add(&mut self, part: &Value, extra: &Value) -> bool {
        let text = part["text"]
            .as_str()
            .or_else(|| part["delta"]["content"].as_str());
        self.text.push_str(text.unwrap_or_default());
        let told = self.logprobs.len();
        let logprobs = &part["logprobs"];
        if let Some(content) = logprobs["content"].as_array() {
            self.logprobs.extend(content.iter().cloned());
        }
        if let Some(tokens) = logprobs["tokens"].as_array() {
            for (nth, token) in tokens.iter().enumerate() {
                let of = |name: &str| logprobs[name][nth].clone();
                let entry = [
                    token.clone(),
                    of("token_logprobs"),
                    of("top_logprobs"),
                    of("text_offset"),
                ];
                self.logprobs.push(Value::from(entry.to_vec()));
            }
        }
        if let Some(finish) = part["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
        if let Some(ids) = extra["completion_token_ids"].as_array() {
            let ids = ids.iter().filter_map(Value::as_u64);
            self.tokens.get_or_insert_default().extend(ids);
        }
        if let Some(reason) = extra.get("stop_reason") {
            self.stop_reason = Some(reason.clone());
        }
        text.is_some_and(|text| !text.is_empty()) || self.logprobs.len() > told
    }
}

/// Tokens that `ours` leaves out of `theirs`, and that it has twice.
fn slips(ours: &[u64], theirs: &[u64]) -> (u64, u64) {
    let (mut lost, mut doubled) = (0, 0);
    let (mut at, mut there) = (0, 0);
    while at < ours.len() && there < theirs.len() {
        if ours[at] == theirs[there] {
            at += 1;
            there += 1;
            continue;
        }
        let agree = |at: usize, there: usize| {
            let (ours, theirs) = (ours.get(at..), theirs.get(there..));
            let pairs = ours
                .unwrap_or_default()
                .iter()
                .zip(theirs.unwrap_or_default());
            let mut pairs = pairs.take(AGREEMENT).peekable();
            pairs.peek().is_some() && pairs.all(|(ours, theirs)| ours == theirs)
        };
        let skipped = (1..=LONGEST_SLIP).find(|by| agree(at, there + by));
        let repeated = (1..=LONGEST_SLIP).find(|by| agree(at + by, there));
        match (skipped, repeated) {
            (Some(by), again) if again.is_none_or(|again| by <= again) => {
                lost += by as u64;
                there += by;
            }
            (_, Some(by)) => {
                doubled += by as u64;
                at += by;
            }
            // Another text: nothing that could be counted.
            _ => return (lost, doubled),
        }
    }
    (lost, doubled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(tokens: &[u64]) -> Answer {
        let mut answer = Answer::default();
        let event = json!({
            "choices": [{"index": 0, "text": "x", "finish_reason": "length"}],
            "nvext": {"completion_token_ids": tokens},
        });
        assert_eq!(answer.add(&event), Some(0));
        let usage = json!({"prompt_tokens": 3, "completion_tokens": tokens.len()});
        assert_eq!(answer.add(&json!({"choices": [], "usage": usage})), None);
        answer
    }

    #[test]
    fn lost_and_doubled_tokens_are_counted() {
        let whole: Vec<u64> = (0..40).collect();
        let undisturbed = answer(&whole);
        let judged = |tokens: &[u64]| answer(tokens).compare(&undisturbed);
        assert_eq!(judged(&whole), Difference::default());
        let lossy = [&whole[..10], &whole[12..]].concat();
        let lost = Difference {
            lost: 2,
            doubled: 0,
            differs: true,
        };
        assert_eq!(judged(&lossy), lost);
        let twice = [&whole[..10], &whole[7..]].concat();
        let doubled = Difference {
            lost: 0,
            doubled: 3,
            differs: true,
        };
        assert_eq!(judged(&twice), doubled);
        // One is lost and one doubled: their number is right, and they are not.
        let both = [&whole[..10], &whole[11..20], &whole[19..]].concat();
        let judged = judged(&both);
        assert_eq!((judged.lost, judged.doubled), (1, 1));
    }

    #[test]
    fn events_of_both_apis_make_an_answer() {
        let mut got = Answer::default();
        got.add(&json!({"choices": [{"index": 1, "delta": {"role": "assistant", "content": ""}}]}));
        got.add(&json!({"choices": [{"index": 1, "delta": {"content": "a"},
            "logprobs": {"content": [{"token": "a", "logprob": -1.0}]}}]}));
        got.add(
            &json!({"choices": [{"index": 0, "text": "b", "finish_reason": "stop",
            "logprobs": {"tokens": ["b"], "token_logprobs": [-2.0], "text_offset": [0]}}]}),
        );
        assert_eq!(got.choices[1].text, "a");
        assert_eq!(got.choices[1].logprobs.len(), 1);
        assert_eq!(got.choices[0].finish.as_deref(), Some("stop"));
        assert_eq!(got.choices[0].logprobs.len(), 1);
        got.add(&json!({"error": {"code": "worker_lost"}}));
        assert_eq!(got.error.as_deref(), Some("worker_lost"));
    }
}
