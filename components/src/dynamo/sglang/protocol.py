"""What workers that people write for SGLang by hand may build on.

    class DecodeHandler(BaseDecodeClass):
        def __init__(self, engine_args):
            self.engine = sgl.Engine(server_args=engine_args)

        async def generate(self, req: DisaggPreprocessedRequest):
            stream = await self.engine.async_generate(
                input_ids=req.request.token_ids, sampling_params=req.sampling_params, stream=True,
                bootstrap_host=req.bootstrap_host, bootstrap_port=req.bootstrap_port,
                bootstrap_room=req.bootstrap_room,
            )
            async for result in stream:
                yield result

`DecodeHandler(parse_sglang_args()).generate` is then what an endpoint serves.
"""

import functools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class DisaggPreprocessedRequest:
    """A request of a disaggregated deployment, for SGLang.

    Attributes:
        request: what was asked for; `token_ids` are the prompt's.
        sampling_params: in SGLang's words.
        bootstrap_host: where decode and prefill worker meet; so are `bootstrap_port` and
            `bootstrap_room`. `None` in a deployment that is not disaggregated.
    """

    request: Any
    sampling_params: dict[str, Any] = field(default_factory=dict)
    bootstrap_host: str | None = None
    bootstrap_port: int | None = None
    bootstrap_room: int | None = None

    @classmethod
    def of(cls, request: Any) -> "DisaggPreprocessedRequest":
        """Of a dictionary with these keys, as clients send it; one that is such a request stays."""
        if isinstance(request, DisaggPreprocessedRequest):
            return request
        asked = request.get("request", request)
        return cls(
            request=SimpleNamespace(**asked) if isinstance(asked, Mapping) else asked,
            sampling_params=dict(request.get("sampling_params") or {}),
            bootstrap_host=request.get("bootstrap_host"),
            bootstrap_port=request.get("bootstrap_port"),
            bootstrap_room=request.get("bootstrap_room"),
        )


class BaseDecodeClass:
    """Handlers whose `generate` takes a `DisaggPreprocessedRequest`: dictionaries become one."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "generate" in cls.__dict__:
            cls.generate = _converted(cls.__dict__["generate"])  # type: ignore[attr-defined]


def _converted(generate: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    @functools.wraps(generate)
    async def converted(self: Any, request: Any, *more: Any) -> AsyncIterator[Any]:
        async for item in generate(self, DisaggPreprocessedRequest.of(request), *more):
            yield item

    return converted
