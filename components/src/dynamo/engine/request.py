"""Requests as workers get them: the dictionary of the extension, read once. Pure.

The keys are those of published workers (`PreprocessedRequest`). A request that another worker has
begun looks like one whose prompt is longer: `token_ids` ends with what was generated so far, of
which `generated_tokens` says how many there are, and limits count what is left.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dynamo.engine.structured import Structured

#: Largest seed that engines take: a signed 64-bit integer.
_MOST_SEED = 2**63 - 1


@dataclass(frozen=True)
class Request:
    """One sequence to generate.

    Attributes:
        id: unique within the worker, also among attempts at and choices of one client's request.
        token_ids: the prompt, followed by what other workers have generated.
        generated_tokens: how many of them those are.
        max_tokens: tokens still to generate at most; `None` is up to the context's end.
        min_tokens: tokens before which nothing ends the answer.
        eos_token_ids: tokens that end it by themselves; empty where `ignore_eos` is set.
        stop_token_ids: tokens at which the client wants it to end.
        temperature ... logit_bias: how tokens are drawn; neutral values where nothing was said.
        logprobs: alternatives to report for each token; 0 is the drawn token's alone.
        dp_rank: the data-parallel rank that the router has chosen.
        priority: higher goes first, 0 is normal.
        cache_salt: KV blocks are shared only within one salt.
        disaggregated_params: what a prefill worker has given for the decode worker.
        bootstrap: where prefill and decode worker meet (`bootstrap_host`, `_port`, `_room`).
        trace_headers: W3C headers of the trace that the request belongs to.
    """

    id: str
    model: str
    token_ids: list[int]
    generated_tokens: int = 0
    max_tokens: int | None = None
    min_tokens: int = 0
    eos_token_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    structured: Structured | None = None
    logprobs: int | None = None
    lora_name: str | None = None
    dp_rank: int | None = None
    priority: int = 0
    cache_salt: str | None = None
    disaggregated_params: Mapping[str, Any] | None = None
    bootstrap: Mapping[str, Any] | None = None
    trace_headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        request: Mapping[str, Any],
        request_id: str,
        trace_headers: Mapping[str, str] | None = None,
    ) -> "Request":
        """Reads the dictionary of a request.

        Raises:
            ValueError: it has no tokens, or asks for what no engine does.
        """
        tokens = request.get("token_ids")
        if not tokens:
            raise ValueError("the request has no token_ids; a worker's requests are tokenised")
        stop = request.get("stop_conditions") or {}
        sampling = request.get("sampling_options") or {}
        output = request.get("output_options") or {}
        routing = request.get("routing") or {}
        if (sampling.get("n") or 1) != 1:
            raise ValueError("a worker generates one sequence per request; send n requests")
        ignore_eos = bool(stop.get("ignore_eos"))
        generated = int(request.get("generated_tokens") or 0)
        bias = sampling.get("logit_bias") or {}
        return cls(
            id=request_id,
            model=request.get("model") or "",
            token_ids=list(tokens),
            generated_tokens=generated,
            max_tokens=stop.get("max_tokens"),
            min_tokens=stop.get("min_tokens") or 0,
            eos_token_ids=() if ignore_eos else tuple(request.get("eos_token_ids") or ()),
            stop_token_ids=_stop_tokens(stop),
            ignore_eos=ignore_eos,
            temperature=_or(sampling.get("temperature"), 1.0),
            top_p=_or(sampling.get("top_p"), 1.0),
            top_k=_or(sampling.get("top_k"), -1),
            min_p=_or(sampling.get("min_p"), 0.0),
            frequency_penalty=_or(sampling.get("frequency_penalty"), 0.0),
            presence_penalty=_or(sampling.get("presence_penalty"), 0.0),
            repetition_penalty=_or(sampling.get("repetition_penalty"), 1.0),
            seed=_seed(sampling.get("seed"), generated),
            logit_bias={int(token): float(weight) for token, weight in bias.items()},
            structured=Structured.read(sampling.get("guided_decoding")),
            logprobs=output.get("logprobs"),
            lora_name=request.get("lora_name") or routing.get("lora_name"),
            dp_rank=routing.get("dp_rank"),
            priority=routing.get("priority") or 0,
            cache_salt=routing.get("cache_namespace"),
            disaggregated_params=_handed_over(request),
            bootstrap=request.get("bootstrap_info"),
            trace_headers=trace_headers or {},
        )


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value


def _stop_tokens(stop: Mapping[str, Any]) -> tuple[int, ...]:
    tokens = [*(stop.get("stop_token_ids") or ()), *(stop.get("stop_token_ids_hidden") or ())]
    return tuple(dict.fromkeys(tokens))


def _seed(seed: int | None, generated: int) -> int | None:
    """Engines draw a request's numbers in order, from its seed. One that goes on with an answer
    would draw those of its beginning again: the place where it goes on makes another seed."""
    return None if seed is None else (seed + generated) & _MOST_SEED


def _handed_over(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    prefill = request.get("prefill_result") or {}
    return request.get("disaggregated_params") or prefill.get("disaggregated_params")
