//! OpenAI-compatible HTTP frontend.
