//! Time to prepare one chat request, part by part: `preprocess_cost MODEL_FOLDER TEXT...`.
//!
//! Prompts are cut from the texts, so that each is another. `cold` is a conversation that was
//! never seen (`kept` with the cache), `repeated` one that was seen and goes on with a new question, and `remembered` the
//! same with the cache of prompt tokens. Medians, in microseconds; `total` is what the frontend calls, and includes the hop to a compute thread
//! where there is one.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use dynamo_llm::card::LocalModel;
use dynamo_llm::echo::{EchoEngine, EchoOptions};
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::{PreprocessLimits, prepare_chat};
use dynamo_llm::prompt_tokens::PromptTokenCache;
use dynamo_llm::registry::ModelRegistry;
use dynamo_llm::template::RenderInput;
use dynamo_protocols::openai::{ChatRequest, parse};
use dynamo_runtime::environment::Environment;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

/// Conversations measured of each kind.
const ROUNDS: usize = 200;

/// Room for some hundred long prompts.
const CACHE_BYTES: usize = 16 << 20;

/// Bytes of text per token, roughly: what prompts are cut by.
const BYTES_PER_TOKEN: usize = 4;

/// What is measured of one request.
#[derive(Default)]
struct Costs {
    parse: Vec<Duration>,
    render: Vec<Duration>,
    tokenise: Vec<Duration>,
    total: Vec<Duration>,
    tokens: usize,
}

/// Texts to cut from, without end.
struct Corpus {
    text: String,
    at: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .ok_or("usage: preprocess_cost MODEL_FOLDER TEXT...")?;
    let mut corpus = Corpus {
        text: String::new(),
        at: 0,
    };
    for path in arguments {
        corpus.text.push_str(&std::fs::read_to_string(path)?);
    }
    if corpus.text.len() < 64 * 1024 {
        return Err("give texts of at least 64 KiB to cut prompts from".into());
    }
    let model = open(Path::new(&folder))?;
    let registry = ModelRegistry::remembering(PromptTokenCache::new(CACHE_BYTES));
    registry.add("m", Arc::clone(&model));
    let remembering = registry.find("m")?;
    println!("                                tokens   parse  render  tokenise   total");
    for (turns, tokens) in [(1, 400), (5, 400), (1, 8_000), (21, 8_000)] {
        let mut cold = Costs::default();
        let mut repeated = Costs::default();
        let mut kept = Costs::default();
        let mut remembered = Costs::default();
        for _ in 0..ROUNDS {
            let messages = corpus.conversation(turns, tokens * BYTES_PER_TOKEN);
            cold.measure(&messages, &model).await?;
            kept.measure(&messages, &remembering).await?;
            let mut longer = messages;
            longer.push(json!({"role": "assistant", "content": corpus.cut(80)}));
            longer.push(json!({"role": "user", "content": corpus.cut(80)}));
            repeated.measure(&longer, &model).await?;
            remembered.measure(&longer, &remembering).await?;
        }
        cold.print(&format!("{tokens} in {turns}, cold"));
        repeated.print(&format!("{tokens} in {turns}, repeated"));
        kept.print(&format!("{tokens} in {turns}, kept"));
        remembered.print(&format!("{tokens} in {turns}, remembered"));
    }
    Ok(())
}

fn open(folder: &Path) -> Result<Arc<ServedModel>, Failure> {
    let model = LocalModel::open(folder)?;
    let assets = model.assets(None)?;
    Ok(Arc::new(ServedModel {
        card: model.card().clone(),
        tokenizer: assets.tokenizer,
        template: assets.template,
        engine: Arc::new(EchoEngine::new(EchoOptions::default())),
        router: None,
    }))
}

// === impl Corpus ===

impl Corpus {
    /// The next `bytes` or so.
    fn cut(&mut self, bytes: usize) -> String {
        if self.at + bytes > self.text.len() {
            // Another phase each time around, so that cuts differ.
            self.at = (self.at + bytes) % 97;
        }
        let mut start = self.at;
        while !self.text.is_char_boundary(start) {
            start += 1;
        }
        let mut end = (start + bytes).min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        self.at = end;
        self.text[start..end].to_owned()
    }

    /// A conversation of `turns` messages, an odd number: the user begins and ends it.
    fn conversation(&mut self, turns: usize, bytes: usize) -> Vec<Value> {
        let mut messages = Vec::new();
        for turn in 0..turns {
            let role = ["user", "assistant"][turn % 2];
            messages.push(json!({"role": role, "content": self.cut(bytes / turns)}));
        }
        messages
    }
}

// === impl Costs ===

impl Costs {
    /// The whole first, so that the parts find no more in caches than it did: of a cached
    /// tokenizer they show what a hit costs.
    async fn measure(
        &mut self,
        messages: &[Value],
        model: &Arc<ServedModel>,
    ) -> Result<(), Failure> {
        let environment = Environment::system();
        let limits = PreprocessLimits::default();
        let body = json!({"model": "m", "stream": true, "messages": messages, "max_tokens": 64});
        let body = body.to_string();
        let began = Instant::now();
        let request: ChatRequest = parse(body.as_bytes())?;
        self.parse.push(began.elapsed());

        let began = Instant::now();
        let prepared = prepare_chat(request, Arc::clone(model), limits, &environment).await?;
        self.total.push(began.elapsed());
        self.tokens += prepared.requests[0].prompt_ids.len();

        let messages = Value::from(messages);
        let template = model.template.as_ref().ok_or("the model has no template")?;
        let began = Instant::now();
        let text = template.render(&RenderInput {
            messages: &messages,
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            kwargs: &Map::new(),
            now: Duration::ZERO,
        })?;
        self.render.push(began.elapsed());
        let began = Instant::now();
        model.tokenizer.encode(&text, false)?;
        self.tokenise.push(began.elapsed());
        Ok(())
    }

    fn print(mut self, what: &str) {
        let parts = [
            &mut self.parse,
            &mut self.render,
            &mut self.tokenise,
            &mut self.total,
        ];
        let [parse, render, tokenise, total] = parts.map(|times| {
            times.sort_unstable();
            times[times.len() / 2].as_secs_f64() * 1e6
        });
        let tokens = self.tokens / ROUNDS;
        println!("{what:30} {tokens:7} {parse:7.0} {render:7.0} {tokenise:9.0} {total:7.0}");
    }
}
