"""What a worker says of its model, its cache and its load; and routing by what workers say."""

from dynamo._core import (
    HttpAsyncEngine,
    HttpService,
    KvEventPublisher,
    KvIndexer,
    KvRouter,
    ModelInput,
    ModelRuntimeConfig,
    ModelType,
    OverlapScores,
    RadixTree,
    WorkerMetricsPublisher,
    WorkerType,
    compute_block_hash_for_seq,
    compute_sequence_hashes,
    register_model,
    unregister_model,
)
from dynamo.llm.exceptions import HttpError

#: An engine for any server; there is one kind.
PythonAsyncEngine = HttpAsyncEngine

#: The names of earlier versions.
register_llm = register_model
unregister_llm = unregister_model

__all__ = [
    "HttpAsyncEngine",
    "HttpError",
    "HttpService",
    "KvEventPublisher",
    "KvIndexer",
    "KvRouter",
    "ModelInput",
    "ModelRuntimeConfig",
    "ModelType",
    "OverlapScores",
    "PythonAsyncEngine",
    "RadixTree",
    "WorkerMetricsPublisher",
    "WorkerType",
    "compute_block_hash_for_seq",
    "compute_sequence_hashes",
    "register_llm",
    "register_model",
    "unregister_llm",
    "unregister_model",
]
