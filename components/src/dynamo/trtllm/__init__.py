"""The TensorRT-LLM component: `python3 -m dynamo.trtllm --model-path MODEL`.

Importing it needs no TensorRT-LLM; starting a worker does (`pip install "ai-dynamo[trtllm]"`).
"""

from dynamo.trtllm.args import Config, parse_trtllm_args
from dynamo.trtllm.engine import TrtllmEngine
from dynamo.trtllm.main import main, worker

__all__ = ["Config", "TrtllmEngine", "main", "parse_trtllm_args", "worker"]
