"""Requests in SGLang's words, and its outputs in ours. Pure: knows no SGLang.

What SGLang sees of an answer that another worker has begun is a longer prompt. Limits count what is
left; frequency and presence penalties count only the tokens that this worker generates.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from dynamo.engine.outputs import Pieces, alternative, output
from dynamo.engine.request import Request
from dynamo.engine.structured import Structured

#: Where SGLang's reasons to end say that it could not go on.
_FAILURES = ("error",)


def sampling_params(request: Request) -> dict[str, Any]:
    """SGLang's `sampling_params`."""
    params: dict[str, Any] = {
        "n": 1,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "repetition_penalty": request.repetition_penalty,
        "min_new_tokens": request.min_tokens,
        "ignore_eos": request.ignore_eos,
        "skip_special_tokens": False,
    }
    if request.max_tokens is not None:
        params["max_new_tokens"] = request.max_tokens
    stops = [*request.stop_token_ids, *request.eos_token_ids]
    if stops:
        params["stop_token_ids"] = stops
    if request.seed is not None:
        # Kept to by SGLang where it was started with --enable-deterministic-inference.
        params["sampling_seed"] = request.seed
    if request.logit_bias:
        params["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.structured is not None:
        params.update(structured_params(request.structured))
    return params


def structured_params(structured: Structured) -> dict[str, Any]:
    """The form of an answer, as part of the sampling parameters.

    Raises:
        ValueError: SGLang has no such form.
    """
    structured.refuse_whitespace("sglang", "--constrained-json-whitespace-pattern")
    if structured.form == "json":
        return {"json_schema": structured.value}
    if structured.form == "json_object":
        return {"json_schema": '{"type": "object"}'}
    if structured.form == "regex":
        return {"regex": structured.value}
    if structured.form == "choice":
        return {"regex": structured.choice_as_regex()}
    if structured.form == "structural_tag":
        return {"structural_tag": structured.value}
    if structured.is_lark():
        raise ValueError("sglang takes grammars in EBNF (root ::= ...), not in Lark's form")
    return {"ebnf": structured.value}


def arguments(request: Request) -> dict[str, Any]:
    """Arguments of `Engine.async_generate`, but for what only some versions take."""
    made: dict[str, Any] = {
        "input_ids": request.token_ids,
        "sampling_params": sampling_params(request),
        "stream": True,
        "rid": request.id,
    }
    if request.logprobs is not None:
        made.update(return_logprob=True, top_logprobs_num=request.logprobs)
        # Of the answer alone.
        made["logprob_start_len"] = -1
    if request.lora_name is not None:
        made["lora_path"] = request.lora_name
    return made


def meeting(request: Request) -> dict[str, Any] | None:
    """Where prefill and decode worker meet, as one of them or the router has said."""
    said: Mapping[str, Any] = request.bootstrap or request.disaggregated_params or {}
    if said.get("bootstrap_room") is None:
        return None
    return {key: said[key] for key in ("bootstrap_host", "bootstrap_port", "bootstrap_room")}


class Outputs:
    """The outputs of one sequence, of the dictionaries that SGLang streams.

    Args:
        incremental: SGLang gives only new tokens; it gives all from the beginning otherwise. Log
            probabilities it gives whole in some versions, and as tokens come in others.
    """

    def __init__(self, request: Request, incremental: bool) -> None:
        self._request = request
        self._tokens = None if incremental else Pieces()
        self._given = 0
        self._is_first = True

    def of(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """One output. What SGLang could not do raises RuntimeError."""
        meta = result["meta_info"]
        ended = meta.get("finish_reason") or {}
        if ended.get("type") in _FAILURES or (ended.get("type") == "abort" and _failed(ended)):
            raise _failure(ended)
        whole = result.get("output_ids") or []
        tokens = whole if self._tokens is None else self._tokens.new(whole)
        log_probs, tops = self._log_probabilities(meta, len(tokens))
        self._given += len(tokens)
        cached = meta.get("cached_tokens") if self._is_first else None
        self._is_first = False
        return output(
            tokens,
            finish_reason=ended.get("type"),
            stop_reason=ended.get("matched"),
            eos_token_ids=self._request.eos_token_ids,
            cached_tokens=cached,
            log_probs=log_probs,
            top_logprobs=tops,
        )

    def _log_probabilities(
        self, meta: Mapping[str, Any], count: int
    ) -> tuple[list[float] | None, list[list[dict[str, Any]]] | None]:
        drawn = meta.get("output_token_logprobs")
        if self._request.logprobs is None or drawn is None:
            return None, None
        # Those of the newest tokens stand at the end, whether earlier ones come along or not.
        mine = drawn[len(drawn) - count :]
        tops = meta.get("output_top_logprobs") or []
        tops = tops[len(tops) - count :] if tops else [[]] * count
        return [float(entry[0]) for entry in mine], [_tops(place) for place in tops]


def _tops(place: Sequence[Sequence[Any]] | None) -> list[dict[str, Any]]:
    return [
        alternative(int(entry[1]), float(entry[0]), rank)
        for rank, entry in enumerate(place or (), start=1)
    ]


def _failed(ended: Mapping[str, Any]) -> bool:
    return bool(ended.get("status_code")) or bool(ended.get("err_type"))


def _failure(ended: Mapping[str, Any]) -> Exception:
    """An abort with a status is SGLang's refusal or failure; one without is ours."""
    message = str(ended.get("message") or "sglang gave the request up")
    status = int(ended.get("status_code") or 500)
    return ValueError(message) if 400 <= status < 500 else RuntimeError(message)
