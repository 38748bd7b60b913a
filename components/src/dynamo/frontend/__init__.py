"""The frontend component: `python3 -m dynamo.frontend` is `dynamo frontend`."""

from dynamo.frontend.main import main

__all__ = ["main"]
