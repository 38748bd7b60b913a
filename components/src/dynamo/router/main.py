"""Starts the router."""

from dynamo.command import component


def main() -> None:
    """Runs `dynamo router` with this process's arguments, and ends the process."""
    component(["router"])
