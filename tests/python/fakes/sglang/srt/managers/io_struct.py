"""See `sglang`."""

import dataclasses


@dataclasses.dataclass
class LoadLoRAAdapterReqInput:
    lora_name: str
    lora_path: str


@dataclasses.dataclass
class UnloadLoRAAdapterReqInput:
    lora_name: str
