"""Makes a tiny checkpoint that vLLM loads: two layers of random weights, the tokenizer of Qwen3.

python3 tests/python_vllm/checkpoint.py TOKENIZER_FOLDER TARGET

The weights come of a fixed seed, so that greedy answers are the same everywhere.
"""

import shutil
import sys
from pathlib import Path


def make(tokenizer: Path, target: Path) -> None:
    """Writes the checkpoint, unless it is there."""
    if (target / "model.safetensors").exists():
        return
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=4_096,
        eos_token_id=151_645,
        bos_token_id=151_643,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    target.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, target / name)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
