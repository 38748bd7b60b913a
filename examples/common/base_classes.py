"""What the example workers have in common: requests as objects, and the way a worker is served.

Nothing here is needed to write a worker (`examples/hello_world` has none of it); it keeps the
examples of three engines to what is different about each.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from dynamo.deploy import BaseDeployment
from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, register_model
from dynamo.runtime import Context, DistributedRuntime


@dataclass(frozen=True)
class PreprocessedRequest:
    """A request that a frontend has turned into tokens. `docs/python.md` lists the fields."""

    token_ids: list[int]
    stop_conditions: dict[str, Any] = field(default_factory=dict)
    sampling_options: dict[str, Any] = field(default_factory=dict)
    disaggregated_params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, request: dict[str, Any]) -> "PreprocessedRequest":
        """The request of a handler."""
        return cls(
            token_ids=request["token_ids"],
            stop_conditions=request.get("stop_conditions") or {},
            sampling_options=request.get("sampling_options") or {},
            disaggregated_params=request.get("disaggregated_params") or {},
        )

    @property
    def max_tokens(self) -> int | None:
        """Most tokens of the answer."""
        return self.stop_conditions.get("max_tokens")

    def sampling(self, **names: str) -> dict[str, Any]:
        """The sampling options that were given, in an engine's words.

        Args:
            names: from the engine's word to ours: `sampling(temperature="temperature")`.
        """
        found = {own: self.sampling_options.get(ours) for own, ours in names.items()}
        return {own: value for own, value in found.items() if value is not None}


class BaseWorker(ABC):
    """What hosts an engine: turns a request's tokens into the answer's."""

    @abstractmethod
    def generate(self, request: Any, context: Context) -> AsyncIterator[dict[str, Any]]:
        """Yields `{"token_ids": [...]}`, the last with a `finish_reason`.

        It is an async generator: when the client goes away it is cancelled where it waits, and its
        `finally` tells the engine.
        """

    def limits(self) -> ModelRuntimeConfig:
        """What the engine can hold, for routers. By default nothing is said."""
        return ModelRuntimeConfig()


class BaseDecodeWorker(BaseWorker):
    """A worker that generates; with prefill workers beside it, from KV caches that those fill."""


@dataclass
class Sent:
    """Engines that give all tokens so far give some of them again: what is new?"""

    count: int = 0

    def new(self, token_ids: list[int]) -> list[int]:
        """The tokens that were not there before."""
        new, self.count = list(token_ids[self.count :]), len(token_ids)
        return new


async def serve(
    runtime: DistributedRuntime,
    deployment: BaseDeployment,
    worker: BaseWorker,
    model_path: str,
    model_name: str | None = None,
) -> None:
    """Announces the model and serves it until the process is asked to end."""
    component = runtime.namespace(deployment.namespace).component(deployment.name)
    endpoint = component.endpoint("generate")
    await register_model(
        ModelInput.Tokens,
        ModelType.Chat | ModelType.Completions,
        endpoint,
        model_path,
        model_name,
        runtime_config=worker.limits(),
    )
    print(f"serves {endpoint.path}", flush=True)
    await endpoint.serve_endpoint(worker.generate)
