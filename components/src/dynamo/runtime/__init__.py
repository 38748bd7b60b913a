"""The runtime: this process's place among the others.

An endpoint (`dyn://namespace.component.endpoint`) is served by instances and called by clients:

    @dynamo_worker()
    async def worker(runtime: DistributedRuntime):
        endpoint = runtime.namespace("demo").component("hello").endpoint("generate")
        await endpoint.serve_endpoint(handler)

A handler is an async generator of a request, or of a request and its `Context`. What it yields goes
to the caller at once; what happens when it raises, is cancelled or blocks is in `docs/python.md`.
"""

from dynamo._core import (
    CannotConnect,
    Cancelled,
    Client,
    ConnectionTimeout,
    Context,
    Disconnected,
    DistributedRuntime,
    DynamoException,
    Endpoint,
    EngineShutdown,
    InvalidArgument,
    Span,
    StreamIncomplete,
    Unknown,
    WorkerUnavailable,
)
from dynamo.runtime.worker import dynamo_endpoint, dynamo_worker

__all__ = [
    "CannotConnect",
    "Cancelled",
    "Client",
    "ConnectionTimeout",
    "Context",
    "Disconnected",
    "DistributedRuntime",
    "DynamoException",
    "Endpoint",
    "EngineShutdown",
    "InvalidArgument",
    "Span",
    "StreamIncomplete",
    "Unknown",
    "WorkerUnavailable",
    "dynamo_endpoint",
    "dynamo_worker",
]
