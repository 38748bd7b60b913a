"""Starts the mocker."""

from dynamo.command import component


def main() -> None:
    """Runs `dynamo mocker` with this process's arguments, and ends the process."""
    component(["mocker"])
