//! Model cards, chat templates, tokenizers and the request pipeline.
