"""Words for an engine's own parser: from files, and from flags that mean the same everywhere.

Nothing is set behind its back: what is made here stands on the engine's command line, which a
worker logs when it starts.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dynamo.runtime.arguments import config_file, document


def of_mapping(values: Mapping[str, Any]) -> list[str]:
    """Flags of a mapping, as files of engine arguments have it: `max_model_len: 8192` becomes
    `--max-model-len 8192`. True is the flag alone, False the flag with `no-`, None leaves it out;
    a list gives several values, a mapping is written as JSON."""
    words: list[str] = []
    for key, value in values.items():
        name = key.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, Mapping):
            words.extend([f"--{name}", json.dumps(value)])
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words.extend([f"--{name}", *(str(item) for item in value)])
        else:
            words.extend([f"--{name}", str(value)])
    return words


def of_file(path: Path) -> list[str]:
    """The words of a file of engine arguments: JSON, YAML or TOML, by its name.

    Raises:
        FileTrouble: it cannot be read as that.
    """
    values = document.plain(config_file.read(path))
    return of_mapping(values) if isinstance(values, Mapping) else []


def given(words: Sequence[str], *names: str) -> bool:
    """Whether one of these flags (without dashes) is among the words, `_` and `-` being the same."""
    wanted = {name.replace("_", "-") for name in names}
    flags = (word[2:] for word in words if word.startswith("--"))
    return any(
        flag.partition("=")[0].partition(".")[0].replace("_", "-") in wanted for flag in flags
    )


def number(words: Sequence[str], otherwise: int, *names: str) -> int:
    """The number that one of these flags (without dashes) is given; the last of them counts."""
    flags = {f"--{name}" for name in names} | {f"--{name.replace('-', '_')}" for name in names}
    found = otherwise
    for name, text in said(words):
        if name in flags and text is not None and text.isdigit():
            found = int(text)
    return found


def said(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Each flag with the value that it may have: what stands after its `=`, or the next word."""
    for at, word in enumerate(words):
        if word.startswith("-"):
            name, has_value, value = word.partition("=")
            following = words[at + 1] if at + 1 < len(words) else None
            yield name, value if has_value else following
