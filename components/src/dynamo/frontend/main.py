"""Starts the frontend."""

from dynamo.command import component


def main() -> None:
    """Runs `dynamo frontend` with this process's arguments, and ends the process."""
    component(["frontend"])
