"""Outputs as workers give them: the dictionaries of published workers (`LLMEngineOutput`). Pure.

Each has the new `token_ids`; the first one says how much of the prompt was cached; the last one
has a `finish_reason`. The token that ended the answer is among the tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: Why an answer ended: what engines say, and what the extension knows.
_REASONS = {
    "stop": "stop",
    "eos": "stop",
    "stop_token": "stop",
    "length": "length",
    "abort": "cancelled",
    "cancelled": "cancelled",
    "not_finished": None,
}


def output(
    token_ids: Sequence[int],
    *,
    finish_reason: str | None = None,
    stop_reason: Any = None,
    eos_token_ids: Iterable[int] = (),
    cached_tokens: int | None = None,
    log_probs: Sequence[float] | None = None,
    top_logprobs: Sequence[Sequence[dict[str, Any]]] | None = None,
    disaggregated_params: Any = None,
) -> dict[str, Any]:
    """What one step added to an answer.

    Args:
        finish_reason: the engine's word for it; one that is not known ends the answer with an error
            that shows it.
        stop_reason: the token that ended it, if a token that the client named did.
        eos_token_ids: tokens that are no client's, also where the engine was told to stop at them.
    """
    item: dict[str, Any] = {"token_ids": list(token_ids)}
    if finish_reason is not None:
        reason = _REASONS.get(finish_reason, f"error: it ended with {finish_reason}")
        if reason is not None:
            item["finish_reason"] = reason
        if isinstance(stop_reason, int) and stop_reason not in tuple(eos_token_ids):
            item["stop_reason"] = stop_reason
    if cached_tokens is not None:
        item["completion_usage"] = {"prompt_tokens_details": {"cached_tokens": cached_tokens}}
    if log_probs is not None:
        item["log_probs"] = list(log_probs)
        item["top_logprobs"] = [list(tops) for tops in top_logprobs or ()]
    if disaggregated_params is not None:
        item["disaggregated_params"] = disaggregated_params
    return item


def alternative(token_id: int, logprob: float, rank: int) -> dict[str, Any]:
    """One of the most likely tokens at a place, `rank` from 1."""
    return {"token_id": token_id, "logprob": logprob, "rank": rank}


def log_probabilities(
    token_ids: Sequence[int],
    places: Sequence[Mapping[int, Any] | float] | None,
    wanted: int | None,
) -> tuple[list[float] | None, list[list[dict[str, Any]]] | None]:
    """Of each token, and of the `wanted` most likely ones at its place.

    Args:
        places: for each token what vLLM and TensorRT-LLM give: by token an entry with `logprob` and
            `rank`, the drawn token's among them whatever its rank; or the drawn token's alone.
    """
    if wanted is None or places is None:
        return None, None
    drawn: list[float] = []
    tops: list[list[dict[str, Any]]] = []
    for token, place in zip(token_ids, places, strict=True):
        if not isinstance(place, Mapping):
            drawn.append(float(place))
            tops.append([])
            continue
        drawn.append(place[token].logprob)
        ranked = sorted(
            (entry.rank, other, entry.logprob)
            for other, entry in place.items()
            if entry.rank is not None and entry.rank <= wanted
        )
        tops.append([alternative(other, logprob, rank) for rank, other, logprob in ranked])
    return drawn, tops


class Pieces:
    """What is new in lists that an engine gives whole each time."""

    def __init__(self) -> None:
        self._given = 0

    def new(self, whole: Sequence[Any]) -> Sequence[Any]:
        """What was not given yet."""
        piece = whole[self._given :]
        self._given = max(self._given, len(whole))
        return piece
