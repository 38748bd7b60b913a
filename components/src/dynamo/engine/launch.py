"""From the command line to a worker, and from its end to an exit status.

| status | when |
|-------:|------|
| 0 | the worker was asked to end, and drained |
| 1 | start-up failed, or the engine died |
| 2 | the command line is wrong |
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

from dynamo.engine import processes
from dynamo.engine.absent import EngineMissing
from dynamo.engine.news import NoEvents
from dynamo.engine.options import WrongUsage

logger = logging.getLogger(__name__)

_LEVELS = {
    "TRACE": logging.DEBUG,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "OFF": logging.CRITICAL,
}

FAILED = 1
WRONG_USAGE = 2


def configure_logging(level: str) -> None:
    """Log lines of Python on stderr, beside the runtime's. The level is the first word of
    `--log-level`, as modules of Rust mean nothing here."""
    word = level.split(",")[0].strip().upper()
    chosen = _LEVELS.get(word, logging.INFO)
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)5s %(name)s: %(message)s"
    )
    logging.getLogger("dynamo").setLevel(chosen)


def run(
    name: str,
    parse: Callable[[list[str]], Any],
    worker: Callable[[Any], Coroutine[Any, Any, None]],
) -> int:
    """Runs a component's worker; its exit status.

    Args:
        name: of the component, for messages.
        parse: makes the component's configuration of the command line's words; its `options` are
            `dynamo.engine.options.Options`.
        worker: runs until it is asked to end.
    """
    try:
        config = parse(sys.argv[1:])
    except WrongUsage as error:
        print(f"error: {error} (python3 -m dynamo.{name} --help)", file=sys.stderr)
        return WRONG_USAGE
    except EngineMissing as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    configure_logging(config.options.log_level)
    _faster_loop()
    processes.adopt()
    try:
        asyncio.run(worker(config))
    except (NoEvents, EngineMissing) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except Exception as error:
        # The traceback is for whoever mends the engine's start; the last line says what it is.
        logger.debug("the worker failed", exc_info=True)
        print(f"error: dynamo.{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return FAILED
    return 0


def _faster_loop() -> None:
    try:
        import uvloop
    except ImportError:
        return
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def end(status: int) -> None:
    """Ends the process. Engines leave threads behind that would keep the interpreter, so that it
    does not wait for them: what had to end has ended."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
