//! Embedded llama.cpp engine.
