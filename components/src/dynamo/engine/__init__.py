"""What the workers of all engines share.

An engine is a class of its component (`dynamo.vllm.engine.VllmEngine`, ...) that maps requests and
outputs and knows the engine's limits (`base.Engine`). `worker.serve` does the rest: registration,
requests, cancellation, KV events, load, adapters, drain.
"""

from dynamo.engine.absent import EngineMissing
from dynamo.engine.base import Adapter, Engine, EventSource, Limits, Load
from dynamo.engine.modes import Mode
from dynamo.engine.request import Request

__all__ = [
    "Adapter",
    "Engine",
    "EngineMissing",
    "EventSource",
    "Limits",
    "Load",
    "Mode",
    "Request",
]
