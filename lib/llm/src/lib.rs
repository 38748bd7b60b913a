//! Model cards, chat templates, tokenizers and the request pipeline.

pub mod announced_models;
pub mod byte_tokenizer;
pub mod card;
pub mod config;
pub mod detokenizer;
pub mod disaggregated;
pub mod echo;
pub mod echo_model;
pub mod hub;
pub mod migration;
pub mod model;
pub mod model_set;
pub mod model_watch;
pub mod postprocess;
pub mod prefill_pools;
pub mod preprocess;
pub mod prompt_tokens;
pub mod registry;
pub mod remote;
pub mod role;
pub mod routed_models;
pub mod template;
pub mod text;
pub mod tokenizer;
pub mod worker;
