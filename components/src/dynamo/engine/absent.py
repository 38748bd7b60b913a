"""Engines that are not installed.

Every package of a component imports without its engine, so that `--help`, tests and tools work
anywhere. Whoever then uses the engine is told which extra brings it.
"""

import importlib
import importlib.util
from types import ModuleType


class EngineMissing(ImportError):
    """The engine's package is not there; the message says how to get it."""


def require(module: str, extra: str) -> ModuleType:
    """Imports `module` of an engine that the extra `[extra]` brings.

    Raises:
        EngineMissing: the engine's package is not installed. A package that is there and cannot be
            imported (a missing driver, say) raises what it raises: installing it again is no help.
    """
    root = module.partition(".")[0]
    if not is_installed(root):
        raise EngineMissing(
            f'dynamo.{extra} needs the package {root}: pip install "ai-dynamo[{extra}]"',
            name=root,
        )
    return importlib.import_module(module)


def is_installed(package: str) -> bool:
    """Whether there is such a package, which is not imported to find out."""
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:
        # A module that was put into `sys.modules` by hand, as tests do.
        return True
