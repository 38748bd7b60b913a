"""The llama.cpp component: `python3 -m dynamo.llama_cpp` serves a model with the embedded engine."""

from dynamo.llama_cpp.main import main

__all__ = ["main"]
