"""The router component: `python3 -m dynamo.router` is `dynamo router`."""

from dynamo.router.main import main

__all__ = ["main"]
