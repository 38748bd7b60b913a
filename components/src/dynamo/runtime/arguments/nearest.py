"""The known name that a misspelt one most likely means.

The same rule as that of the `dynamo` command, so that both guess alike.
"""

from collections.abc import Iterable

#: A name may differ from the nearest by one edit, or by one in this many characters.
_CHARACTERS_PER_EDIT = 3


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that is few edits away, or that holds all words of `name` (`port` for `http_port`).

    Case and dashes do not count.
    """
    folded = _folded(name)
    limit = max(len(folded) // _CHARACTERS_PER_EDIT, 1)
    close = []
    for candidate in known:
        other = _folded(candidate)
        edits = _edits(folded, other)
        if edits <= limit or _holds_words(other, folded):
            # The name itself breaks ties, so that the answer does not depend on the order.
            close.append((edits, candidate))
    return min(close)[1] if close else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X`, or nothing."""
    found = nearest(name, known)
    return "" if found is None else f"; did you mean {found}"


def _folded(name: str) -> str:
    return name.lower().replace("-", "_").strip("_")


def _holds_words(name: str, words: str) -> bool:
    return bool(words) and set(words.split("_")) <= set(name.split("_"))


def _edits(one: str, other: str) -> int:
    """Damerau-Levenshtein distance: insertions, deletions, changes, and swaps of neighbours."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, left in enumerate(one, start=1):
        current = [row]
        for column, right in enumerate(other, start=1):
            cost = min(
                last[column] + 1,
                current[column - 1] + 1,
                last[column - 1] + (left != right),
            )
            swapped = row > 1 and column > 1 and left == other[column - 2] and one[row - 2] == right
            if swapped:
                cost = min(cost, before[column - 2] + 1)
            current.append(cost)
        before, last = last, current
    return last[-1]
