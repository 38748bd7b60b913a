"""The stand-ins of engines (`tests/python/fakes`) have nothing that the installed engines lack.

Needs the engine's package, no GPU; sources are read, nothing is imported:

    GPU_ENGINE=sglang python3 -m pytest tests/python_gpu/test_surface.py
"""

import ast
import importlib.util
import os
from pathlib import Path

import pytest

FAKES = Path(__file__).resolve().parents[1] / "python/fakes"

ENGINE = os.environ.get("GPU_ENGINE", "")

PACKAGES = {"sglang": "sglang", "trtllm": "tensorrt_llm"}

#: What of the stand-in is what of the engine: file and class here, file and class there.
CLASSES = {
    "sglang": [
        (("__init__.py", "Engine"), ("srt/entrypoints/engine.py", "Engine")),
        (("srt/server_args.py", "ServerArgs"), ("srt/server_args.py", "ServerArgs")),
        (
            ("srt/managers/io_struct.py", "LoadLoRAAdapterReqInput"),
            ("srt/managers/io_struct.py", "LoadLoRAAdapterReqInput"),
        ),
        (
            ("srt/managers/io_struct.py", "UnloadLoRAAdapterReqInput"),
            ("srt/managers/io_struct.py", "UnloadLoRAAdapterReqInput"),
        ),
    ],
    "trtllm": [
        (("__init__.py", "LLM"), ("llmapi/llm.py", "BaseLLM")),
        (("__init__.py", "SamplingParams"), ("sampling_params.py", "SamplingParams")),
        (
            ("disaggregated_params.py", "DisaggregatedParams"),
            ("disaggregated_params.py", "DisaggregatedParams"),
        ),
        (
            ("llmapi/__init__.py", "GuidedDecodingParams"),
            ("sampling_params.py", "GuidedDecodingParams"),
        ),
    ],
}

#: What the stand-ins have for their own use.
OWN = {"stored"}


def surface(path, name):
    """Fields of a class, and the arguments of its public methods by their names."""
    tree = ast.parse(path.read_text())
    found = next(it for it in ast.walk(tree) if isinstance(it, ast.ClassDef) and it.name == name)
    fields = {it.target.id for it in found.body if isinstance(it, ast.AnnAssign)}
    methods = {
        it.name: {arg.arg for arg in [*it.args.args, *it.args.kwonlyargs]}
        for it in found.body
        if isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef) and not it.name.startswith("_")
    }
    return fields, methods


@pytest.mark.parametrize(("fake", "real"), CLASSES.get(ENGINE, []))
def test_the_engine_has_what_the_stand_in_has(fake, real):
    package = PACKAGES[ENGINE]
    (folder,) = importlib.util.find_spec(package).submodule_search_locations
    wanted_fields, wanted = surface(FAKES / package / fake[0], fake[1])
    fields, methods = surface(Path(folder) / real[0], real[1])
    # Later versions of SGLang declare the fields of ServerArgs in groups.
    for group in (Path(folder) / "srt/arg_groups/fields").glob("*.py"):
        for it in ast.walk(ast.parse(group.read_text())):
            if isinstance(it, ast.AnnAssign) and isinstance(it.target, ast.Name):
                fields.add(it.target.id)
    assert wanted_fields <= fields, wanted_fields - fields
    for name in wanted.keys() - OWN:
        assert wanted[name] <= methods[name], wanted[name] - methods[name]
