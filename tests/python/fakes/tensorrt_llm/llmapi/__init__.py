"""See `tensorrt_llm`."""

import dataclasses


@dataclasses.dataclass(slots=True, kw_only=True)
class GuidedDecodingParams:
    json: str = None
    regex: str = None
    grammar: str = None
    json_object: bool = False
    structural_tag: str = None
