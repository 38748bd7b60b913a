"""The vLLM component: `python3 -m dynamo.vllm --model-path MODEL` serves a model with vLLM.

Importing it needs no vLLM; starting a worker does (`pip install "ai-dynamo[vllm]"`).
"""

from dynamo.vllm.args import Config, parse_vllm_args
from dynamo.vllm.engine import VllmEngine
from dynamo.vllm.main import main, worker

__all__ = ["Config", "VllmEngine", "main", "parse_vllm_args", "worker"]
