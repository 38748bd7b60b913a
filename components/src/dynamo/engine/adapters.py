"""LoRA adapters that come and go while a worker runs.

Three endpoints beside `generate`: `load_lora` takes `{"lora_name", "source": {"uri"}}`,
`unload_lora` takes `{"lora_name"}`, `list_loras` takes anything. Each answers once, with `status`
("success" or "error"), `message`, and what it is about. A loaded adapter is a model of its own.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from dynamo.engine.base import Adapter, Engine

logger = logging.getLogger(__name__)

#: Largest id of an adapter: engines take a positive signed 32-bit integer.
_MOST_ID = 0x7FFF_FFFF

#: Announces an adapter as a model, or withdraws it.
Announce = Callable[[Adapter], Awaitable[None]]


def adapter_id(name: str) -> int:
    """The id of an adapter within an engine: of its name alone, so that all workers agree."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") & _MOST_ID) or 1


def local_folder(uri: str) -> Path:
    """The folder of an adapter: a path, `file://PATH`, or `hf://ORG/REPO[@REVISION]`, which is
    fetched.

    Raises:
        ValueError: there is no such folder, or it is of a kind that is not known.
    """
    parts = urlparse(uri)
    if parts.scheme in ("", "file"):
        path = Path(parts.path if parts.scheme else uri)
        if not (path / "adapter_config.json").is_file():
            raise ValueError(f"{path} is no adapter: it has no adapter_config.json")
        return path
    if parts.scheme == "hf":
        repo, _, revision = (parts.netloc + parts.path).partition("@")
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(repo, revision=revision or None))
    raise ValueError(f"{uri} is not known; use a folder, file://PATH or hf://ORG/REPO")


class Adapters:
    """The adapters of one worker."""

    def __init__(self, engine: Engine, announce: Announce, withdraw: Announce) -> None:
        self._engine = engine
        self._announce = announce
        self._withdraw = withdraw
        self._loaded: dict[str, Adapter] = {}
        #: One change at a time: what is announced is what is loaded.
        self._changing = asyncio.Lock()

    async def load(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The handler of `load_lora`."""
        yield await self._answer(self._load, request)

    async def unload(self, request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The handler of `unload_lora`."""
        yield await self._answer(self._unload, request)

    async def list(self, request: Any) -> AsyncIterator[dict[str, Any]]:
        """The handler of `list_loras`."""
        del request
        loras = {name: adapter.id for name, adapter in sorted(self._loaded.items())}
        yield {"status": "success", "loras": loras, "count": len(loras)}

    async def _answer(
        self, change: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], request: Any
    ) -> dict[str, Any]:
        try:
            async with self._changing:
                return await change(request if isinstance(request, dict) else {})
        except Exception as error:
            # Whatever it was, the caller hears of it and the worker goes on.
            logger.warning("adapter: %s", error)
            return {"status": "error", "message": str(error)}

    async def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        name = _name(request)
        uri = (request.get("source") or {}).get("uri") or request.get("lora_path")
        if not uri:
            raise ValueError('say where the adapter is: "source": {"uri": "file:///PATH"}')
        known = self._loaded.get(name)
        if known is None:
            if len(self._loaded) >= self._engine.adapters_limit():
                raise ValueError(self._no_room())
            path = await asyncio.to_thread(local_folder, uri)
            known = Adapter(name, adapter_id(name), str(path))
            await self._engine.load_adapter(known)
            try:
                await self._announce(known)
            except BaseException:
                await self._engine.unload_adapter(known)
                raise
            self._loaded[name] = known
            logger.info("loaded adapter %s of %s", name, path)
        return {"status": "success", "lora_name": name, "lora_id": known.id}

    async def _unload(self, request: dict[str, Any]) -> dict[str, Any]:
        name = _name(request)
        known = self._loaded.get(name)
        if known is None:
            raise ValueError(f"no adapter {name} is loaded; list_loras names those that are")
        await self._withdraw(known)
        del self._loaded[name]
        await self._engine.unload_adapter(known)
        logger.info("unloaded adapter %s", name)
        return {"status": "success", "lora_name": name, "lora_id": known.id}

    def _no_room(self) -> str:
        limit = self._engine.adapters_limit()
        if limit == 0:
            return (
                f"this worker takes no adapters; start it with --enable-lora ({self._engine.name})"
            )
        return f"this worker holds {limit} adapters and takes no more; unload one, or raise --max-loras"


def _name(request: dict[str, Any]) -> str:
    name = request.get("lora_name")
    if not isinstance(name, str) or not name:
        raise ValueError('say which adapter: "lora_name": "NAME"')
    return name
