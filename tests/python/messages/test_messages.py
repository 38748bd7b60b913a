"""What people read who made a mistake: kept as text, to be read by whoever changes it.

`UPDATE_SNAPSHOTS=1` writes the texts anew.
"""

import os
import shlex
import sys
from pathlib import Path

import pytest
from component import main as component_main

from dynamo.serve.main import main as serve_main

HERE = Path(__file__).parent
SNAPSHOTS = HERE / "snapshots"

#: Each case: a command line, files, and variables of the environment.
CASES = {}


def case(name, words, files=None, **variables):
    CASES[name] = (words, files or {}, variables)


def component(name, words="", config=None, suffix="yaml", **variables):
    """A component that is started wrongly."""
    files = {} if config is None else {f"config.{suffix}": config}
    given = f" -f config.{suffix}" if config is not None else ""
    case(f"flag-{name}", f"component.py {words}{given}", files, **variables)


def serve(name, module=None, config=None, target="graph:GRAPH"):
    """A graph, or a file for it, that makes no sense."""
    files = {} if module is None else {"graph.py": module}
    words = f"-m dynamo.serve {target} --dry-run"
    if config is not None:
        files["config.yaml"] = config
        words += " -f config.yaml"
    case(f"serve-{name}", words, files)


MODEL = "--model-path m"
component("unknown", f"{MODEL} --blok-size 3")
component("unlike-anything", f"{MODEL} --zzzz 3 --frobnicate")
component("not-a-number", f"{MODEL} --block-size big")
component("out-of-bounds", f"{MODEL} --block-size 500")
component("choice", f"{MODEL} --mode prefil")
component("duration-without-unit", f"{MODEL} --patience 30")
component("size-of-one-letter", f"{MODEL} --room 4G")
component("list-item", f"{MODEL} --weight 1 --weight heavy")
component("boolean", f"{MODEL} --cache=maybe")
component("no-value", f"{MODEL} --block-size")
component("required")
component("runtime-choice", f"{MODEL} --discovery-backend consul")
component("several-at-once", "--block-size 0 --mode x --weight y --modle m")
component("variable", MODEL, DYN_BLOCK_SIZE="many")
component("variable-misspelt", f"{MODEL} --print-config", DYN_BLOK_SIZE="8")
component("secret-is-not-shown", f"{MODEL} --nats-auth-token '<set>'")
component("printed-mask", f"{MODEL} --api-key '<set>'")
component("engine-unknown", f"{MODEL} --tensor-paralel-size 2")
component("engine-value", f"{MODEL} -tp two")
component("engine-and-ours", f"{MODEL} --log-level debug")
component("engine-behind-dashes", f"{MODEL} -- --log-level loud")
component("file-unknown-key", MODEL, "block_size: 8\nblok_size: 9\n")
component("file-unknown-section", MODEL, "dmeo:\n  block_size: 8\n")
component("file-value", MODEL, "# sizes\ndemo:\n  block_size: lots\n  room: 3Q\n")
component("file-twice", MODEL, "demo:\n  block-size: 8\nblock_size: 9\n")
component("file-nested", MODEL, "demo:\n  block_size:\n    value: 8\n")
component("file-list", MODEL, "block_size: [8, 9]\n")
component("file-null", MODEL, "block_size:\n")
component("file-key-twice", MODEL, "a: 1\na: 2\n")
component("file-tab", MODEL, "demo:\n\tblock_size: 8\n")
component("file-anchor", MODEL, "demo: &x\n  block_size: 8\n")
component("file-section-value", MODEL, "demo: 8\n")
component("file-toml", MODEL, "block_size = \n", suffix="toml")
component("file-suffix", MODEL, "block_size: 8\n", suffix="conf")
case("flag-file-missing", f"component.py {MODEL} -f nowhere.yaml")

GRAPH = """
from dynamo.deploy import BaseDeployment

class Worker(BaseDeployment):
    name = "backend"
    module = "dynamo.mocker"

class Frontend(BaseDeployment):
    module = "dynamo.frontend"
    calls = [Worker]

GRAPH = [Frontend, Worker]
"""
serve("no-module", target="./graph.py")
serve("module-misspelt", GRAPH, target="grahp:GRAPH")
serve("module-nowhere", target="nowhere.like_this:GRAPH")
serve("name-misspelt", GRAPH, target="graph:GRAP")
serve("no-name", "x = 1\n", target="graph")
serve("syntax", "GRAPH = [\n")
serve("import-fails", "import json\nimport nothing_of_this_name\n")
serve("raises", "def f():\n    raise KeyError('x')\nf()\n")
serve("not-a-list", "GRAPH = 5\n")
serve("wrong-entries", "class A: pass\nGRAPH = [A, 'dynamo.frontend', 5]\n")
serve("empty", "GRAPH = []\n")
serve(
    "attribute-misspelt",
    GRAPH.replace('    module = "dynamo.mocker"', "    modul = 'dynamo.mocker'"),
)
serve("calls-nobody", GRAPH.replace("[Worker]", '["dyn://dynamo.backend.generat"]'))
serve("calls-no-endpoint", GRAPH.replace("[Worker]", '["backend"]'))
serve("calls-a-text", GRAPH.replace("[Worker]", '"dyn://dynamo.backend.generate"'))
serve(
    "circle",
    "from dynamo.graph import Component\n"
    'GRAPH = [Component("a", "dynamo.mocker", calls=["dyn://dynamo.b.generate"]),\n'
    '         Component("b", "dynamo.mocker", calls=["dyn://dynamo.a.generate"])]\n',
)
serve("same-name", GRAPH + 'Frontend.name = "backend"\nFrontend.calls = []\n')
serve("bad-name", GRAPH + 'Worker.name = "back end"\n')
serve("module-to-start", GRAPH.replace("dynamo.mocker", "dynamo.moker"))
serve("replicas", GRAPH + "Worker.replicas = -1\n")
serve("argument-of-class", GRAPH + 'Worker.arguments = {"speedup_ration": 2}\n')
serve("section-misspelt", GRAPH, "Frontent:\n  http-port: 8000\n")
serve("section-twice", GRAPH, "Worker:\n  speedup-ratio: 2\nbackend:\n  speedup-ratio: 3\n")
serve("section-value", GRAPH, "Worker: 5\n")
serve("option-misspelt", GRAPH, "Worker:\n  block-size: 16\n  speed-up-ratio: 2\n")
serve("option-of-another", GRAPH, "Worker:\n  http-port: 8000\n")
serve("option-value", GRAPH, "Frontend:\n  http-port: [1, 2]\n  router-mode: kvv\n")
serve("option-list", GRAPH, "Frontend:\n  http-port: eight\n")
serve("common-missing", GRAPH, "Worker:\n  common-configs: [model-path]\n")
serve(
    "common-misspelt",
    GRAPH,
    "Common:\n  model-path: m\nWorker:\n  common-configs: [model-paht]\n",
)
serve("common-form", GRAPH, "Common:\n  a: 1\nWorker:\n  common-configs: model-path\n")
serve("service-args", GRAPH, "Worker:\n  ServiceArgs:\n    worker: 2\n    workers: two\n")
serve("environment", GRAPH, "Worker:\n  ServiceArgs:\n    environment: [A=b]\n")
serve("yaml", GRAPH, "Worker:\n  model-path: m\n speedup-ratio: 2\n")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, caplog):
    """Runs a command line in this process, which is a hundred times as fast as one of its own: its
    status, and what it writes to stderr."""

    def start(words, variables):
        for name in [it for it in os.environ if it.startswith("DYN_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "graph", raising=False)
        program, *rest = words
        try:
            status = component_main(rest) if program == "component.py" else serve_main(rest[1:])
        except SystemExit as ended:
            status = ended.code
        monkeypatch.delitem(sys.modules, "graph", raising=False)
        warnings = "".join(f"{message}\n" for message in caplog.messages)
        return status or 0, warnings + capsys.readouterr().err

    return start


@pytest.mark.parametrize("name", sorted(CASES))
def test_message(name, tmp_path, run):
    words, files, variables = CASES[name]
    for file, text in files.items():
        (tmp_path / file).write_text(text)
    status, said = run(shlex.split(words), variables)
    shown = "".join(f"{key}={value} " for key, value in variables.items())
    text = f"$ {shown}python3 {words}\n"
    for file, content in files.items():
        lines = content.rstrip("\n").split("\n")
        numbered = [f"   {number:2} {line}".rstrip() for number, line in enumerate(lines, start=1)]
        text += "\n".join([f"-- {file}", *numbered, ""])
    text += f"-- status {status}\n{said}"
    text = text.replace(str(tmp_path), "FOLDER")
    path = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        path.write_text(text)
    assert path.exists(), f"no snapshot; UPDATE_SNAPSHOTS=1 writes it:\n{text}"
    assert text == path.read_text()


def test_every_snapshot_has_its_case():
    assert {path.stem for path in SNAPSHOTS.glob("*.txt")} == set(CASES)
