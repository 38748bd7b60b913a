"""Requests in TensorRT-LLM's words, and its outputs and events in ours. Pure: knows no
TensorRT-LLM.

What it sees of an answer that another worker has begun is a longer prompt. Limits count what is
left; frequency and presence penalties count only the tokens that this worker generates.
"""

import base64
from collections.abc import Mapping
from typing import Any

from dynamo.engine.modes import Mode
from dynamo.engine.outputs import Pieces, log_probabilities, output
from dynamo.engine.request import Request
from dynamo.engine.structured import Structured

#: Fields of TensorRT-LLM's `DisaggregatedParams` that go from prefill to decode worker; others are
#: tensors or belong to one process.
_HANDED_OVER = (
    "request_type",
    "first_gen_tokens",
    "ctx_request_id",
    "opaque_state",
    "draft_tokens",
    "disagg_request_id",
    "ctx_dp_rank",
    "ctx_info_endpoint",
)

#: How bytes are marked among what goes from worker to worker, which is JSON.
_BYTES = "base64:"


def sampling_params(request: Request, mode: Mode) -> dict[str, Any]:
    """Arguments of `tensorrt_llm.SamplingParams`, but for `guided_decoding`, which is a class.

    Raises:
        ValueError: TensorRT-LLM has no such parameter.
    """
    if request.logit_bias:
        raise ValueError("trtllm takes no logit_bias; leave it out")
    params: dict[str, Any] = {
        "n": 1,
        "temperature": request.temperature,
        "top_p": request.top_p,
        # Its word for "all of them".
        "top_k": max(request.top_k, 0),
        "min_p": request.min_p,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
        "max_tokens": request.max_tokens,
        "min_tokens": request.min_tokens or None,
        "ignore_eos": request.ignore_eos,
        "stop_token_ids": [*request.stop_token_ids, *request.eos_token_ids] or None,
        # The token that ends an answer is one of its tokens; what of it is shown is the frontend's.
        "include_stop_str_in_output": True,
        "detokenize": False,
    }
    if request.logprobs is not None:
        # It knows no 0: the drawn token's alone.
        params["logprobs"] = max(request.logprobs, 1)
    if request.temperature == 0:
        # It takes no 0: greedy is the one most likely token.
        params.update(temperature=None, top_k=1, top_p=None, min_p=None)
    if request.max_tokens is None:
        # Its own default, which it takes no None for.
        del params["max_tokens"]
    if mode is Mode.PREFILL:
        params.update(max_tokens=1, min_tokens=None)
        params.pop("logprobs", None)
    return params


def guided_params(structured: Structured) -> dict[str, Any]:
    """Arguments of `tensorrt_llm.llmapi.GuidedDecodingParams`.

    Raises:
        ValueError: TensorRT-LLM has no such form.
    """
    structured.refuse_whitespace("trtllm", "another guided_decoding_backend")
    if structured.form == "choice":
        return {"regex": structured.choice_as_regex()}
    if structured.is_lark():
        raise ValueError("trtllm takes grammars in EBNF (root ::= ...), not in Lark's form")
    return {structured.form: structured.value}


def disaggregated(request: Request, mode: Mode) -> dict[str, Any] | None:
    """Arguments of `tensorrt_llm.disaggregated_params.DisaggregatedParams` for a request.

    Raises:
        RuntimeError: it came to a decode worker, and no prefill worker had it before.
    """
    if mode is Mode.AGGREGATED:
        return None
    if mode is Mode.PREFILL:
        return {"request_type": "context_only"}
    handed = request.disaggregated_params
    if not handed:
        raise RuntimeError(
            "the request came to a decode worker without a prefill worker; start one, "
            "or start this worker without --disaggregation-mode"
        )
    return {
        **{name: _unpack(value) for name, value in handed.items()},
        "request_type": "generation_only",
    }


def handed_over(params: Any) -> dict[str, Any] | None:
    """What a prefill worker gives to a decode worker, as JSON has it."""
    if params is None:
        return None
    values = {name: getattr(params, name, None) for name in _HANDED_OVER}
    return {name: _pack(value) for name, value in values.items() if value is not None}


def _pack(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return _BYTES + base64.b64encode(value).decode()
    return list(value) if isinstance(value, tuple) else value


def _unpack(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_BYTES):
        return base64.b64decode(value[len(_BYTES) :])
    return value


class Outputs:
    """The outputs of one sequence, of the results that TensorRT-LLM streams, each of which has the
    tokens from the beginning."""

    def __init__(self, request: Request, mode: Mode) -> None:
        self._request = request
        self._mode = mode
        self._tokens = Pieces()
        self._logprobs = Pieces()
        self._is_first = True

    def of(self, result: Any) -> dict[str, Any]:
        """One output."""
        choice = result.outputs[0]
        tokens = self._tokens.new(choice.token_ids)
        places = self._logprobs.new(choice.logprobs or [])
        log_probs = tops = None
        if len(places) == len(tokens):
            log_probs, tops = log_probabilities(tokens, places, self._request.logprobs)
        cached = getattr(result, "cached_tokens", None) if self._is_first else None
        self._is_first = False
        handed = None
        if self._mode is Mode.PREFILL:
            handed = handed_over(choice.disaggregated_params)
        return output(
            tokens,
            finish_reason=choice.finish_reason,
            stop_reason=choice.stop_reason,
            eos_token_ids=self._request.eos_token_ids,
            cached_tokens=cached,
            log_probs=log_probs,
            top_logprobs=tops,
            disaggregated_params=handed,
        )


class Events:
    """TensorRT-LLM's KV events as `KvEventPublisher.publish_batch` takes them.

    Each layer group with a window of its own tells of its blocks. Those of the largest window are
    of whole prefixes; `created` events, which come first, say which that is. Blocks that are not
    full are told as well; they are nobody's prefix and are left out.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._window: int | None = None
        self._is_created = False
        self._partial: set[int] = set()

    def of(self, event: Mapping[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        """The rank that an event is about, and what to publish of it."""
        data = event["data"]
        rank = int(event.get("attention_dp_rank") or 0)
        window = event.get("window_size")
        if data["type"] == "created":
            if window is not None and not self._is_created:
                self._window = max(window, self._window or 0)
            return rank, []
        self._is_created = True
        if window is not None and self._window is not None and window != self._window:
            return rank, []
        if data["type"] == "stored":
            stored = self._stored(data)
            return rank, [stored] if stored else []
        if data["type"] == "removed":
            gone = [block for block in data["block_hashes"] if block not in self._partial]
            self._partial.difference_update(data["block_hashes"])
            return rank, [{"type": "removed", "block_hashes": gone}] if gone else []
        return rank, []

    def _stored(self, data: Mapping[str, Any]) -> dict[str, Any] | None:
        hashes: list[int] = []
        tokens: list[int] = []
        for block in data["blocks"]:
            ids = [int(token["token_id"]) for token in block["tokens"]]
            if len(ids) != self._block_size:
                self._partial.add(block["block_hash"])
                break
            hashes.append(block["block_hash"])
            tokens += ids
        if not hashes:
            return None
        return {
            "type": "stored",
            "token_ids": tokens,
            "num_block_tokens": [self._block_size] * len(hashes),
            "block_hashes": hashes,
            "parent_hash": data.get("parent_hash"),
        }


def used_blocks(stats: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rank and KV blocks in use, of one of TensorRT-LLM's iteration statistics."""
    cache = stats.get("kvCacheStats") or {}
    if "usedNumBlocks" not in cache:
        return None
    return int(stats.get("attentionDpRank") or 0), int(cache["usedNumBlocks"])
