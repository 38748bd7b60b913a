"""What a worker says of its model: `register_model`, and what goes with it."""

from dynamo._core import (
    ModelInput,
    ModelRuntimeConfig,
    ModelType,
    WorkerType,
    register_model,
    unregister_model,
)

#: The names of earlier versions.
register_llm = register_model
unregister_llm = unregister_model

__all__ = [
    "ModelInput",
    "ModelRuntimeConfig",
    "ModelType",
    "WorkerType",
    "register_llm",
    "register_model",
    "unregister_llm",
    "unregister_model",
]
