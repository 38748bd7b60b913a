"""Starts a llama.cpp worker: the engine is part of the command, and nothing else is installed."""

from dynamo.command import component


def main() -> None:
    """Runs `dynamo llama_cpp` with this process's arguments, and ends the process."""
    component(["llama_cpp"])
