"""What this build of the extension can do, asked before it is used.

A worker says what it cannot have instead of failing somewhere in the middle.
"""

import inspect
from collections.abc import Callable
from typing import Any

from dynamo import _core


class NotBuilt(RuntimeError):
    """The extension lacks something; the message names it and what to leave out."""


def has(name: str) -> bool:
    """Whether the extension has such a class or function."""
    return hasattr(_core, name)


def takes(function: Callable[..., Any], parameter: str) -> bool:
    """Whether one of its functions takes such an argument."""
    try:
        return parameter in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
