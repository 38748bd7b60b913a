"""The mocker component: `python3 -m dynamo.mocker` is `dynamo mocker`."""

from dynamo.mocker.main import main

__all__ = ["main"]
