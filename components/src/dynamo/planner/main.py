"""Starts the planner."""

from dynamo.command import component


def main() -> None:
    """Runs `dynamo planner` with this process's arguments, and ends the process."""
    component(["planner"])
