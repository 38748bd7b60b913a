"""The SGLang component: `python3 -m dynamo.sglang --model-path MODEL` serves a model with SGLang.

Importing it needs no SGLang; starting a worker does (`pip install "ai-dynamo[sglang]"`).
"""

from dynamo.sglang.engine import SglangEngine
from dynamo.sglang.main import main, worker
from dynamo.sglang.protocol import BaseDecodeClass, DisaggPreprocessedRequest
from dynamo.sglang.utils import Config, parse_sglang_args, parse_worker_args

__all__ = [
    "BaseDecodeClass",
    "Config",
    "DisaggPreprocessedRequest",
    "SglangEngine",
    "main",
    "parse_sglang_args",
    "parse_worker_args",
    "worker",
]
