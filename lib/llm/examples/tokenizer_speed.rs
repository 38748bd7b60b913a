//! CPU time of tokenising a long prompt: `tokenizer_speed TOKENIZER.json TOKENS TEXT`.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use dynamo_llm::tokenizer::HuggingFaceTokenizer;
use dynamo_protocols::tokenizer::Tokenizer;
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: tokenizer_speed TOKENIZER.json TOKENS TEXT")?;
    let wanted: usize = arguments.next().map_or(Ok(8000), |text| text.parse())?;
    let tokenizer = HuggingFaceTokenizer::from_file(Path::new(&path))?;
    let corpus = match arguments.next() {
        Some(path) => std::fs::read_to_string(path)?,
        None => return Err("give a text to cut prompts from".into()),
    };
    let mut rest = corpus.as_str();
    while rest.len() > wanted * 4 {
        let mut end = wanted * 4;
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (text, after) = rest.split_at(end);
        rest = after;
        let started = Instant::now();
        let ids = tokenizer.encode(text, false)?;
        let micros = started.elapsed().as_micros();
        println!("{} bytes, {} tokens: {micros} us", text.len(), ids.len());
    }
    Ok(())
}
