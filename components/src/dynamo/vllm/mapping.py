"""Requests in vLLM's words, and its outputs in ours. Pure: knows no vLLM.

What vLLM sees of an answer that another worker has begun is a longer prompt. Limits count what is
left. Repetition penalties count prompt and answer alike and are exact; frequency and presence
penalties count only the tokens that this worker generates. Draws begin anew with another seed, so
that a sampled answer goes on, but not with the tokens that it would have had without the move.
"""

from typing import Any

from dynamo.engine.modes import Mode
from dynamo.engine.outputs import log_probabilities, output
from dynamo.engine.request import Request
from dynamo.engine.structured import Structured

#: What a prefill worker's engine is asked for: keep the KV state for somebody else.
_KEEP_FOR_DECODE = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


def sampling_params(request: Request, mode: Mode) -> dict[str, Any]:
    """Arguments of `vllm.SamplingParams`, but for `output_kind` and `structured_outputs`, which are
    classes of vLLM's."""
    params: dict[str, Any] = {
        "n": 1,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "min_p": request.min_p,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "repetition_penalty": request.repetition_penalty,
        "seed": request.seed,
        "max_tokens": request.max_tokens,
        "min_tokens": request.min_tokens,
        "ignore_eos": request.ignore_eos,
        # What the frontend takes for an end of sequence is one, whatever vLLM reads of the model.
        "stop_token_ids": [*request.stop_token_ids, *request.eos_token_ids],
        "logprobs": request.logprobs,
        # Text is the frontend's.
        "detokenize": False,
    }
    if request.logit_bias:
        params["logit_bias"] = dict(request.logit_bias)
    if mode is Mode.PREFILL:
        params.update(max_tokens=1, min_tokens=0, logprobs=None)
    transfer = transfer_params(request, mode)
    if transfer is not None:
        params["extra_args"] = {"kv_transfer_params": transfer}
    return params


def transfer_params(request: Request, mode: Mode) -> dict[str, Any] | None:
    """vLLM's `kv_transfer_params` of a request: a prefill worker's question, or the answer to it
    that a decode worker was handed."""
    handed = (request.disaggregated_params or {}).get("kv_transfer_params")
    if mode is Mode.PREFILL:
        return {**_KEEP_FOR_DECODE, **(handed or {})}
    return dict(handed) if handed else None


def structured_params(structured: Structured, no_whitespace: bool = False) -> dict[str, Any]:
    """Arguments of `vllm.sampling_params.StructuredOutputsParams`.

    vLLM takes what a request says of white space and does nothing with it: its grammars follow the
    worker's own setting.

    Args:
        no_whitespace: the worker was started so that there is none between JSON tokens.

    Raises:
        ValueError: the request wants white space that the worker does not keep to.
    """
    if not (no_whitespace and structured.whitespace == ""):
        structured.refuse_whitespace(
            "vllm", """--structured-outputs-config '{"disable_any_whitespace": true}' for none"""
        )
    if structured.form == "choice":
        return {"choice": list(structured.value)}
    return {structured.form: structured.value}


def prompt(request: Request) -> dict[str, Any]:
    """vLLM's `TokensPrompt`."""
    made: dict[str, Any] = {"prompt_token_ids": request.token_ids}
    if request.cache_salt is not None:
        made["cache_salt"] = request.cache_salt
    return made


def priority(request: Request) -> int:
    """vLLM's priority, of which the lowest goes first."""
    return -request.priority


def to_output(
    result: Any, request: Request, is_first: bool, mode: Mode = Mode.AGGREGATED
) -> dict[str, Any]:
    """An output of a `RequestOutput` that has what is new (`RequestOutputKind.DELTA`).

    A prefill worker's last one says where the prompt's state is. Connectors that find it by its
    tokens, in a store that workers share, have nothing to say: an empty answer says that.
    """
    choice = result.outputs[0]
    log_probs, tops = log_probabilities(choice.token_ids, choice.logprobs, request.logprobs)
    transfer = getattr(result, "kv_transfer_params", None)
    hands_over = transfer or (mode is Mode.PREFILL and choice.finish_reason is not None)
    return output(
        choice.token_ids,
        finish_reason=choice.finish_reason,
        stop_reason=choice.stop_reason,
        eos_token_ids=request.eos_token_ids,
        cached_tokens=result.num_cached_tokens if is_first else None,
        log_probs=log_probs,
        top_logprobs=tops,
        disaggregated_params={"kv_transfer_params": transfer or {}} if hands_over else None,
    )
