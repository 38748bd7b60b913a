"""Makes a LoRA adapter of random weights for the tiny checkpoint, large enough to change answers."""

import json
from pathlib import Path

#: Of the checkpoint (`checkpoint.py`): layers, width, and widths of what the adapter changes.
LAYERS, WIDTH = 2, 64
CHANGED = {"q_proj": 128, "v_proj": 64}

RANK = 4


def make(target: Path) -> None:
    """Writes the adapter."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    weights = {}
    for layer in range(LAYERS):
        for name, width in CHANGED.items():
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{place}.lora_A.weight"] = torch.randn(RANK, WIDTH)
            weights[f"{place}.lora_B.weight"] = torch.randn(width, RANK)
    target.mkdir(parents=True)
    save_file(weights, target / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 4 * RANK,
        "lora_dropout": 0.0,
        "target_modules": sorted(CHANGED),
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    (target / "adapter_config.json").write_text(json.dumps(config))
