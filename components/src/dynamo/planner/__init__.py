"""The planner component: `python3 -m dynamo.planner` is `dynamo planner`."""

from dynamo.planner.main import main

__all__ = ["main"]
