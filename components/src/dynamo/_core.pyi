"""The extension of Dynamo: types for editors and mypy.

Made by `lib/bindings/python/codegen/stubs.py` from the built extension; do not edit it.
"""

from asyncio import AbstractEventLoop, Future
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from os import PathLike
from typing import Any, ClassVar, final, type_check_only

__version__: str

def command(words: Sequence[str], interpreter: str | None = None) -> int:
    """Runs the `dynamo` command with these words, the program's name first. Its exit status.
    `interpreter` starts what is written in Python.
    """

def compute_block_hash_for_seq(
    tokens: Sequence[int],
    kv_block_size: int,
    block_mm_infos: Any = None,
    lora_name: str | None = None,
    is_eagle: bool | None = None,
    cache_namespace: str | None = None,
) -> list[int]:
    """Hashes of a prompt's full blocks, each of its own tokens: the published ones."""

def compute_sequence_hashes(block_hashes: Sequence[int]) -> list[int]:
    """Hashes of blocks chained over everything before them."""

def options(command: str = 'worker') -> dict[str, Any]:
    """What is declared about every option of a command; of a worker if none is named."""

def register_model(
    model_input: ModelInput,
    model_type: ModelType,
    endpoint: Endpoint,
    model_path: str,
    model_name: str | None = None,
    *,
    context_length: int | None = None,
    kv_cache_block_size: int | None = None,
    runtime_config: ModelRuntimeConfig | None = None,
    custom_template_path: str | PathLike[str] | None = None,
    lora_name: str | None = None,
    base_model_path: str | None = None,
    max_gpu_lora_count: int | None = None,
    migration_limit: int | None = None,
    worker_type: WorkerType | None = None,
    needs: Any = None,
    user_data: dict[str, Any] | None = None,
) -> Future[None]:
    """Announces that an endpoint serves a model. The model is listed when the endpoint is served
    as well, whichever comes first. A future of the event loop.
    """

def unregister_model(endpoint: Endpoint, lora_name: str | None = None) -> Future[None]:
    """The endpoint serves no model any more, or one adapter less. A future of the event loop."""

def worker_options() -> list[dict[str, Any]]:
    """What is declared about each option of a worker, without its groups."""

@type_check_only
@final
class Annotated:
    """An item of an answer."""

    def comments(self) -> list[str]:
        """Always empty."""

    def data(self) -> Any:
        """What the handler yielded."""

    def event(self) -> str | None:
        """Always `None`: items have no events of their own."""

    def id(self) -> str | None:
        """Always `None`."""

    def is_error(self) -> bool:
        """Always false: what ends an answer is an exception."""

@type_check_only
@final
class AnswerStream:
    """The answer to a call: an async iterator. Dropping it cancels the call."""

    def __aiter__(self) -> AnswerStream:
        """Return an awaitable, that resolves in asynchronous iterator."""

    def __anext__(self) -> Awaitable[Any]:
        """Return a value or raise StopAsyncIteration."""

@final
class Client:
    """Calls an endpoint's instances."""

    def direct(
        self,
        request: Any,
        instance_id: int,
        annotated: bool = True,
        context: Context | None = None,
    ) -> Future[AnswerStream]:
        """Calls this instance and no other."""

    def generate(
        self,
        request: Any,
        annotated: bool = True,
        context: Context | None = None,
    ) -> Future[AnswerStream]:
        """Calls an instance as this client was told to choose them."""

    def instance_ids(self) -> list[int]:
        """The ids of the instances that can be called now."""

    def instances(self) -> list[dict[str, Any]]:
        """The instances that can be called now: id, address, and what they say of themselves."""

    def random(
        self,
        request: Any,
        annotated: bool = True,
        context: Context | None = None,
    ) -> Future[AnswerStream]:
        """Calls an instance chosen by lot."""

    def round_robin(
        self,
        request: Any,
        annotated: bool = True,
        context: Context | None = None,
    ) -> Future[AnswerStream]:
        """Calls the next instance in turn."""

    def wait_for_instances(self, timeout: float | None = None) -> Future[list[int]]:
        """Waits until there is an instance, `timeout` seconds at most; the ids of those there are."""

@type_check_only
@final
class Component:
    """A kind of process."""

    def create_service(self) -> Future[None]:
        """Nothing: endpoints are served one by one. Kept because workers of earlier versions await
        it.
        """

    def endpoint(self, name: str) -> Endpoint:
        """What such a process can be asked."""

    @property
    def name(self) -> str:
        """Its name."""

@final
class Context:
    """A request's id, and whether it is still wanted. Handlers get one with each request; clients
    may give one with a call, to stop it or to name it.
    """

    def __init__(self, id: str | None = None, metadata: dict[str, Any] | None = None) -> None: ...

    def async_killed_or_stopped(self) -> Future[bool]:
        """Resolves when nobody waits for more. Within a handler only, which is then not cancelled
        at once but has five seconds to end by itself.
        """

    def current_span(self) -> Span:
        """The span that was started last and is open; the request's own, which takes no
        attributes, if there is none.
        """

    def id(self) -> str:
        """The request's id, the same on every attempt."""

    def is_killed(self) -> bool:
        """Whether whoever asked has gone away, or this process ends."""

    def is_stopped(self) -> bool:
        """Whether nobody waits for more."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Whatever goes with the request in this process."""

    @property
    def span_id(self) -> str | None:
        """W3C span id, 16 hexadecimal digits."""

    def start_span(self, name: str, attrs: dict[str, Any] | None = None) -> Span:
        """Starts a span of the handler's own within the request's trace, below the one that was
        started last and is open. It is exported where traces are (`--otel-export`), and costs
        next to nothing else.
        """

    def stop_generating(self) -> None:
        """Asks for the answer to end."""

    @property
    def time_remaining(self) -> float | None:
        """Seconds until whoever asks loses interest; `None` if never."""

    def trace_headers(self) -> dict[str, str]:
        """The headers that carry the trace further."""

    @property
    def trace_id(self) -> str | None:
        """W3C trace id, 32 hexadecimal digits."""

@final
class DistributedRuntime:
    """This process's place among the others."""

    def __init__(
        self,
        event_loop: AbstractEventLoop,
        discovery_backend: str | None = None,
        request_plane: str | None = None,
        enable_nats: bool | None = None,
        *,
        event_plane: str | None = None,
        response_plane: str | None = None,
        arguments: Sequence[str] | None = None,
    ) -> None: ...

    @property
    def default_namespace(self) -> str:
        """The namespace that the options name."""

    def drain(self) -> Future[None]:
        """Drains: withdraws what is served, lets requests finish for as long as `--drain-timeout`
        allows, hands over the rest. A future of the event loop.
        """

    def endpoint(self, path: str) -> Endpoint:
        """An endpoint by its path: `namespace.component.endpoint`, with or without `dyn://`."""

    def namespace(self, name: str) -> Namespace:
        """A deployment's name."""

    def set_health_status(self, ready: bool) -> None:
        """Says whether this process is ready, beside what its endpoints say."""

    def shutdown(self) -> None:
        """Leaves the others. What is not drained breaks off."""

@final
class Endpoint:
    """What a kind of process can be asked: served by instances, called by clients."""

    def client(self, router_mode: str | None = None) -> Future[Client]:
        """Calls it. `router_mode` is what `generate` does: `round-robin` (the default) or
        `random`.
        """

    def connection_id(self) -> int | None:
        """This process's instance of it; `None` if it does not serve it."""

    @property
    def path(self) -> str:
        """Its path."""

    def register_endpoint_instance(self) -> Future[None]:
        """Puts it back."""

    def serve_endpoint(
        self,
        handler: Callable[..., AsyncIterator[Any]] | Callable[..., Awaitable[Any]],
        graceful_shutdown: bool = True,
        metrics_labels: Sequence[tuple[str, str]] | None = None,
        health_check_payload: dict[str, Any] | None = None,
    ) -> Future[None]:
        """Serves it with an async generator of a request, or of a request and its context. A
        future that is there when the endpoint is not served any more.
        """

    def shutdown(self) -> Future[None]:
        """Stops serving it, gently."""

    def unregister_endpoint_instance(self) -> Future[None]:
        """Takes this process's instance out of discovery; it goes on with what it has."""

@final
class HttpAsyncEngine:
    """A function that answers requests of an `HttpService`: an async generator of the client's
    request, and of its context if it takes one, that yields the chunks of the answer.
    """

    def __init__(
        self,
        generator: Callable[..., AsyncIterator[Any]] | Callable[..., Awaitable[Any]],
        event_loop: AbstractEventLoop,
    ) -> None: ...

@final
class HttpService:
    """A server of the OpenAI API whose models are functions of this process."""

    def __init__(
        self,
        port: int | None = None,
        host: str | None = None,
        *,
        arguments: Sequence[str] | None = None,
    ) -> None: ...

    def add_chat_completions_model(
        self,
        model: str,
        checksum: str,
        engine: HttpAsyncEngine,
    ) -> None:
        """Serves chat completions of a model, in place of those that it had."""

    def add_completions_model(self, model: str, checksum: str, engine: HttpAsyncEngine) -> None:
        """Serves completions of a model, in place of those that it had."""

    @property
    def host(self) -> str | None:
        """The address that it listens at; `None` before it does."""

    def list_chat_completions_models(self) -> list[str]:
        """Names of the models that chat."""

    def list_completions_models(self) -> list[str]:
        """Names of the models that complete."""

    @property
    def port(self) -> int | None:
        """The port that it listens at; `None` before it does."""

    def remove_chat_completions_model(self, model: str) -> None:
        """Serves chat completions of the model no more."""

    def remove_completions_model(self, model: str) -> None:
        """Serves completions of the model no more."""

    def run(self, runtime: DistributedRuntime) -> Future[None]:
        """Starts it if it does not run yet. A future that is there when it has ended, by
        `shutdown` or with the runtime; cancelling it shuts it down.
        """

    def shutdown(self) -> None:
        """Takes no more requests, and lets those that run finish within `--drain-timeout`."""

    def start(self, runtime: DistributedRuntime) -> Future[None]:
        """Starts it. A future that is there when it listens."""

@final
class KvEventPublisher:
    """Tells routers what an engine's KV cache holds: by calls, or by listening to what the engine
    itself publishes over ZMQ. To be made before the endpoint is served.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        worker_id: int | None = None,
        kv_block_size: int = 0,
        dp_rank: int = 0,
        enable_local_indexer: bool = False,
        zmq_endpoint: str | None = None,
        zmq_topic: str | None = None,
        zmq_replay_endpoint: str | None = None,
    ) -> None: ...

    def publish_batch(self, events: Sequence[dict[str, Any]]) -> None:
        """Events of a step, in order: dictionaries whose `type` is `stored`, `removed` or
        `cleared`, with the arguments of the method of that name.
        """

    def publish_cleared(self) -> None:
        """Nothing is cached any more."""

    def publish_removed(self, block_hashes: Sequence[int]) -> None:
        """Blocks are gone."""

    def publish_stored(
        self,
        token_ids: Sequence[int],
        num_block_tokens: Sequence[int],
        block_hashes: Sequence[int],
        parent_hash: int | None = None,
        block_mm_infos: Any = None,
        lora_name: str | None = None,
        is_eagle: bool | None = None,
        cache_salt: str | None = None,
    ) -> None:
        """Blocks can be reused from now on, each one following the one before it. `block_hashes`
        are the engine's own names for them, in the order of the sequence; `token_ids` all their
        tokens; `parent_hash` names the block before the first one.
        """

    def shutdown(self) -> None:
        """Listens no more."""

@final
class KvIndexer:
    """What an endpoint's workers have cached, as they tell it."""

    def __init__(self, endpoint: Endpoint, block_size: int) -> None: ...

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""

    def find_matches(self, block_hashes: Sequence[int]) -> OverlapScores:
        """Who has how much of a prompt, by the hashes of its blocks' own tokens."""

    def find_matches_for_request(
        self,
        token_ids: Sequence[int],
        lora_name: str | None = None,
    ) -> OverlapScores:
        """The same by its tokens."""

    def workers(self) -> tuple[int, int]:
        """How many workers are there, and how many of them tell what they have cached."""

@final
class KvRouter:
    """The router of an endpoint's workers: hears what they have cached and how busy they are, and
    chooses whom to ask.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        block_size: int,
        arguments: Sequence[str] | None = None,
    ) -> None: ...

    def best_worker(
        self,
        token_ids: Sequence[int],
        lora_name: str | None = None,
    ) -> tuple[int, int, int]:
        """Where a prompt would go now: worker id, data-parallel rank, and how many leading blocks
        that worker has. Nothing is sent or booked. Raises `KeyError` if nobody could take it.
        """

    @property
    def block_size(self) -> int:
        """Tokens per KV block."""

    def generate(
        self,
        request: dict[str, Any],
        context: Context | None = None,
        worker_id: int | None = None,
    ) -> Future[Any]:
        """Sends a request, a dictionary as a model's handler gets it, to the worker that it should
        go to. The answer yields dictionaries as such a handler does. A future of the event
        loop.
        """

    def get_potential_loads(self) -> list[dict[str, Any]]:
        """By worker (id and rank): requests in flight, prompt tokens that wait, blocks in use, as
        this router has booked them.
        """

    def workers(self) -> tuple[int, int]:
        """How many workers are there, and how many of them tell what they have cached."""

@final
class ModelInput:
    """What goes to the worker."""
    Tensor: ClassVar[ModelInput]
    Text: ClassVar[ModelInput]
    Tokens: ClassVar[ModelInput]

@final
class ModelRuntimeConfig:
    """What a worker can hold."""

    def __init__(self) -> None: ...

    @property
    def bootstrap_host(self) -> Any:
        """Host of that address."""
    @bootstrap_host.setter
    def bootstrap_host(self, value: Any) -> None: ...

    @property
    def bootstrap_port(self) -> Any:
        """Port of that address."""
    @bootstrap_port.setter
    def bootstrap_port(self, value: Any) -> None: ...

    @property
    def cannot_continue(self) -> bool:
        """Its engine cannot go on with an answer that another worker has begun."""
    @cannot_continue.setter
    def cannot_continue(self, value: bool) -> None: ...

    @property
    def context_length(self) -> int | None:
        """Longest sequence, prompt and output together, in tokens."""
    @context_length.setter
    def context_length(self, value: int | None) -> None: ...

    @property
    def max_num_batched_tokens(self) -> int | None:
        """Tokens that one step computes."""
    @max_num_batched_tokens.setter
    def max_num_batched_tokens(self, value: int | None) -> None: ...

    @property
    def max_num_seqs(self) -> int | None:
        """Sequences that run at once."""
    @max_num_seqs.setter
    def max_num_seqs(self, value: int | None) -> None: ...

    def set_disaggregated_endpoint(self, bootstrap_host: Any, bootstrap_port: Any) -> Any:
        """Where decode workers find this prefill worker's engine to fetch KV state: requests then
        go to both at once, with a room in which they meet (`bootstrap_info`).
        """

    @property
    def structured_output(self) -> str | None:
        """How far the engine keeps to structured output: `None`, "from_start" or "replayed"."""
    @structured_output.setter
    def structured_output(self, value: str | None) -> None: ...

    @property
    def total_kv_blocks(self) -> int | None:
        """KV blocks in the worker's cache."""
    @total_kv_blocks.setter
    def total_kv_blocks(self, value: int | None) -> None: ...

@final
class ModelType:
    """What a model can be asked for; kinds are combined by `|`."""
    Backend: ClassVar[ModelType]
    Chat: ClassVar[ModelType]
    Completions: ClassVar[ModelType]
    Embedding: ClassVar[ModelType]
    Prefill: ClassVar[ModelType]
    TensorBased: ClassVar[ModelType]

    def __or__(self, value: Any) -> ModelType:
        ...

    def supports_chat(self) -> bool:
        ...

@type_check_only
@final
class Namespace:
    """A deployment."""

    def component(self, name: str) -> Component:
        """A kind of process of this deployment."""

    @property
    def name(self) -> str:
        """Its name."""

@final
class OverlapScores:
    """Who has how many leading blocks of a prompt."""

    @property
    def frequencies(self) -> list[int]:
        """For each leading block, how many workers have it."""

    @property
    def scores(self) -> dict[tuple[int, int], int]:
        """By worker (its id and its data-parallel rank): leading blocks that it has."""

@final
class RadixTree:
    """An index of what workers have cached, fed by hand."""

    def __init__(self) -> None: ...

    def clear_all_blocks(self, worker_id: int, dp_rank: int = 0) -> None:
        """A worker has nothing any more."""

    def find_matches(self, block_hashes: Sequence[int]) -> OverlapScores:
        """Who has how much of a prompt, by the hashes of its blocks' own tokens."""

    def remove(self, worker_id: int, sequence_hashes: Sequence[int], dp_rank: int = 0) -> None:
        """A worker has these blocks no more: hashes chained over everything before them."""

    def remove_worker(self, worker_id: int, dp_rank: int = 0) -> None:
        """A worker is gone."""

    def store(
        self,
        worker_id: int,
        block_hashes: Sequence[int],
        prefix: Sequence[int] | None = None,
        dp_rank: int = 0,
    ) -> None:
        """A worker stored blocks: hashes of their own tokens, each one following the one before
        it, the first one following the whole of `prefix`.
        """

@final
class Span:
    """A span of a handler's own. Closed at the end of a `with`, or by `close()`."""

    def __enter__(self) -> Span:
        ...

    def __exit__(self, kind: Any, error: Any, _traceback: Any) -> bool:
        """Ends it, with an error if there was one."""

    def add_event(self, name: str, attrs: dict[str, Any] | None = None) -> None:
        """Adds something that happens now."""

    def close(self) -> None:
        """Ends it. What comes later is left out."""

    def is_recording(self) -> bool:
        """Whether it is recorded: its trace is sampled, and traces are exported."""

    def set_attribute(self, key: str, value: bool | int | float | str) -> None:
        """Sets an attribute: a bool, an integer, a float or text."""

    def set_status(self, status: str, description: str | None = None) -> None:
        """Says how it ends: "ok", or "error" and why."""

    @property
    def span_id(self) -> str | None:
        """W3C span id, 16 hexadecimal digits: that of the request's own span if it is not
        recorded.
        """

    @property
    def trace_id(self) -> str | None:
        """W3C trace id, 32 hexadecimal digits."""

@final
class WorkerMetricsPublisher:
    """Tells routers and metrics how busy an engine is."""

    def __init__(self) -> None: ...

    def create_endpoint(self, endpoint: Endpoint) -> Future[None]:
        """Says whose load is published. A future of the event loop."""

    def publish(
        self,
        dp_rank: int | None = None,
        active_decode_blocks: int | None = None,
        kv_used_blocks: int | None = None,
    ) -> None:
        """KV blocks that running requests use now."""

@final
class WorkerType:
    """What a worker of a disaggregated deployment does."""
    Aggregated: ClassVar[WorkerType]
    Decode: ClassVar[WorkerType]
    Encode: ClassVar[WorkerType]
    Prefill: ClassVar[WorkerType]

class DynamoException(Exception):
    """What ends a request. `code` is its code in the error table."""
    code: str

class Cancelled(DynamoException):
    """The request was cancelled."""

class CannotConnect(DynamoException):
    """No instance took the request; it may be sent again."""

class ConnectionTimeout(DynamoException):
    """A part of the request took longer than it may."""

class Disconnected(DynamoException):
    """The worker went away in the middle of the answer."""

class EngineShutdown(DynamoException):
    """The worker ends. Raised by a handler, it moves the request to another worker."""

class InvalidArgument(DynamoException):
    """The request makes no sense: mend it."""

class StreamIncomplete(DynamoException):
    """The answer ended before it was complete."""

class Unknown(DynamoException):
    """An error that has no class of its own; see `code`."""

class WorkerUnavailable(DynamoException):
    """All workers are full, or none is ready."""
