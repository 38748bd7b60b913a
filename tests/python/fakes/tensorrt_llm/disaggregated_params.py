"""See `tensorrt_llm`."""

import dataclasses


@dataclasses.dataclass(slots=True, kw_only=True)
class DisaggregatedParams:
    request_type: str = None
    first_gen_tokens: list = None
    ctx_request_id: int = None
    opaque_state: bytes = None
    draft_tokens: list = None
