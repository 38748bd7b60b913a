"""Command lines of engine workers: ours, the runtime's, the engine's; with and without engines."""

import argparse
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from dynamo.engine import engine_words, options
from dynamo.engine.modes import Mode
from dynamo.engine.options import Spelling, WrongUsage
from dynamo.trtllm.args import arguments_of, of_worker

SPELLING = Spelling(
    "vllm", {"context-length": "max-model-len", "leader-addr": ("master-addr", "master-port")}
)

#: Stand-ins of engines that are not installed here.
FAKES = str(ROOT / "tests/python/fakes")


def engine():
    """The parser of an engine with flags of its own, and some that workers have as well."""
    made = argparse.ArgumentParser()
    made.add_argument("--model")
    made.add_argument("--max-model-len", type=int)
    made.add_argument("--max-num-seqs", type=int)
    made.add_argument("--enforce-eager", action="store_true")
    made.add_argument("--enable-lora", action="store_true")
    made.add_argument("--kv-transfer-config")
    made.add_argument("--log-level")
    return made


def parse(*words, **environment):
    return options.parse(SPELLING, words, environment, engine)


def test_words_go_to_whom_they_belong():
    read = parse(
        *("--model-path", "M", "--max-num-seqs", "8", "--etcd-endpoints=http://e:1"),
        *("--namespace", "ns", "--no-otel-export", "--drain-timeout", "5s", "--enable-lora"),
    )
    assert read.model_path == "M"
    assert read.engine == ["--max-num-seqs", "8", "--enable-lora"]
    assert read.namespace == "ns"
    assert {"--no-otel-export", "--drain-timeout=5s"} <= set(read.runtime)
    assert read.read_engine(["--model", "M", *read.engine]).max_num_seqs == 8


def test_a_file_has_options_of_all_kinds_in_sections_or_without(tmp_path):
    config = tmp_path / "worker.yaml"
    config.write_text(
        "vllm:\n  model_path: M\nruntime:\n  drain_timeout: 7s\nengine:\n  max_num_seqs: 4\n"
    )
    read = parse("--config", str(config))
    assert (read.model_path, read.engine) == ("M", ["--max-num-seqs", "4"])
    assert "--drain-timeout=7s" in read.runtime
    assert parse("--config", str(config), "--max-num-seqs", "5").engine == ["--max-num-seqs", "5"]


def test_every_value_is_shown_with_its_source(capsys):
    with pytest.raises(SystemExit) as ended:
        parse("--model", "M", "--max-num-seqs", "8", "--print-config", DYN_NAMESPACE="ns")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "model_path" in shown
    assert "env DYN_NAMESPACE" in shown
    assert "--max-num-seqs 8" in shown


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model", "M", "--max-num-seq", "8"], "--max-num-seqs"),
        (["--model", "M", "--namspace", "n"], "--namespace"),
        (["--model", "M", "--drain-timeout", "soon"], "drain_timeout"),
        (["--model", "M", "word"], "word"),
    ],
)
def test_words_that_mean_nothing_end_the_process_with_2(words, says, capsys):
    with pytest.raises(SystemExit) as ended:
        read = parse(*words)
        read.read_engine(read.engine)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_what_stands_after_two_dashes_is_the_engines_whatever_it_is():
    read = parse("--model", "M", "--log-level", "warn", "--", "--log-level", "debug")
    assert read.log_level == "warn"
    assert read.engine == ["--log-level", "debug"]


def test_flags_of_all_engines_are_spelt_in_this_ones_words():
    read = parse("--model", "M", "--context-length", "100", "--leader-addr", "h:5")
    assert read.engine == ["--max-model-len", "100", "--master-addr", "h", "--master-port", "5"]
    with pytest.raises(WrongUsage, match="CUDA_VISIBLE_DEVICES"):
        parse("--model", "M", "--base-gpu-id", "1")
    with pytest.raises(WrongUsage, match="HOST:PORT"):
        parse("--model", "M", "--leader-addr", "h")


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ([], ("dynamo", "backend", "generate")),
        (["--is-prefill-worker"], ("dynamo", "prefill", "generate")),
        (["--namespace", "n"], ("n", "backend", "generate")),
        (["--endpoint", "dyn://n.c.e"], ("n", "c", "e")),
        (["--endpoint", "n.c"], ("n", "c", "generate")),
        (["--namespace", "n", "--endpoint", "dyn://c"], ("n", "c", "generate")),
        (["--component", "c", "--endpoint", "e"], ("dynamo", "c", "e")),
    ],
)
def test_places(words, place):
    read = parse("--model", "M", *words)
    assert (read.namespace, read.component, read.endpoint) == place
    # The last one counts.
    assert read.runtime[-2:] == ["--namespace", place[0]]


def test_a_path_may_come_first():
    assert parse("dyn://n.c.e", "--model", "M").component == "c"


def test_the_environment_says_what_the_command_line_does_not():
    environment = {
        "DYN_MODEL_PATH": "E",
        "DYN_MODEL_NAME": "name",
        "DYN_NAMESPACE": "ns",
        "DYN_VLLM_DISAGGREGATION_MODE": "prefill",
        "DYN_KV_EVENTS": "0",
        "DYN_CONTEXT_LENGTH": "64",
    }
    read = parse(**environment)
    assert (read.model_path, read.model_name, read.namespace) == ("E", "name", "ns")
    assert (read.mode, read.kv_events) == (Mode.PREFILL, False)
    assert read.engine == ["--max-model-len", "64"]
    read = parse("--model", "M", "--kv-events", "--is-decode-worker", **environment)
    assert (read.model_path, read.mode, read.kv_events) == ("M", Mode.DECODE, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--model-path"),
        (["--model", "M", "--disaggregation-mode", "both"], "agg, prefill or decode"),
        (["--model", "M", "--is-prefill-worker", "--is-decode-worker"], "one mode"),
        (["--model", "M", "--is-prefill-worker", "--disaggregation-mode", "decode"], "one mode"),
        (["--model", "M", "--endpoint", "a.b.c.d"], "dyn://NAMESPACE"),
        (["--model", "M", "--health-check-payload", "{}"], "token_ids"),
        (["--model", "M", "--health-check-payload", "@/nowhere"], "nowhere"),
        (["--model", "M", "--extra-engine-args", "/nowhere.json"], "nowhere"),
    ],
)
def test_command_lines_that_make_no_sense(words, says):
    with pytest.raises(WrongUsage, match=says):
        parse(*words)


def test_a_file_has_more_of_the_engines_flags(tmp_path):
    path = tmp_path / "args.json"
    path.write_text(
        '{"max_num_seqs": 8, "enforce_eager": true, "x": null, "kv_transfer_config": {"a": 1}}'
    )
    read = parse("--model", "M", "--extra-engine-args", str(path), "--max-num-seqs", "9")
    assert read.engine == [
        *("--max-num-seqs", "8", "--enforce-eager", "--kv-transfer-config", '{"a": 1}'),
        *("--max-num-seqs", "9"),
    ]


def test_words_for_engines():
    assert engine_words.of_mapping({"a_b": False, "c": [1, 2], "d": ""}) == [
        *("--no-a-b", "--c", "1", "2", "--d", ""),
    ]
    words = ["--kv_events_config.topic=x", "--dp-size", "2", "--dp_size=4"]
    assert engine_words.given(words, "kv-events-config")
    assert not engine_words.given(words, "kv-events")
    assert engine_words.number(words, 1, "dp-size") == 4
    assert engine_words.number([], 1, "dp-size") == 1


# --- TensorRT-LLM, whose arguments are no flags of its own

KNOWN = dict.fromkeys(["max_batch_size", "kv_cache_config", "backend", "enable_attention_dp"])


def test_arguments_of_trtllm():
    words = [
        *("--max-batch-size", "8", "--kv-cache-config", '{"tokens_per_block": 16, "a": {"b": 1}}'),
        *("--kv-cache-config.a.c", "2", "--free-gpu-memory-fraction", "0.8", "--backend=pytorch"),
        *(
            "--enable-attention-dp=true",
            "--override-engine-args",
            '{"kv_cache_config": {"a": {"b": 3}}}',
        ),
    ]
    assert arguments_of(words, KNOWN) == {
        "max_batch_size": 8,
        "kv_cache_config": {
            "tokens_per_block": 16,
            "a": {"b": 3, "c": 2},
            "free_gpu_memory_fraction": 0.8,
        },
        "backend": "pytorch",
        "enable_attention_dp": True,
    }
    assert arguments_of(["--enable-attention-dp"], KNOWN) == {"enable_attention_dp": True}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--max-batch-sise", "8"], "do you mean --max-batch-size"),
        (["8"], "no flag"),
        (["--override-engine-args"], "needs a value"),
        (["--max-batch-size", "8", "--max-batch-size.x", "1"], "has a value already"),
    ],
)
def test_arguments_that_trtllm_lacks(words, says):
    with pytest.raises(WrongUsage, match=says):
        arguments_of(words, KNOWN)


def test_a_trtllm_worker_keeps_events_where_they_are_wanted():
    read = parse("--model", "M")
    cache = of_worker(read, {})["kv_cache_config"]
    assert cache == {"enable_block_reuse": True, "event_buffer_max_size": 1_024}
    none = {"kv_cache_config": {"enable_block_reuse": False}}
    assert of_worker(read, none)["kv_cache_config"] == {"enable_block_reuse": False}
    assert "kv_cache_config" not in of_worker(parse("--model", "M", "--no-kv-events"), {})
    prefill = of_worker(parse("--model", "M", "--is-prefill-worker"), {})
    assert prefill["cache_transceiver_config"] == {"backend": "DEFAULT"}


# --- processes


def run(*words, path=""):
    env = {name: value for name, value in os.environ.items() if not name.startswith("DYN_")}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [path, str(ROOT / "components/src")]))
    return subprocess.run(
        [sys.executable, *words], env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("component", ["vllm", "sglang", "trtllm"])
def test_help_and_imports_need_no_engine_and_using_it_says_which_extra(component):
    said = run("-m", f"dynamo.{component}", "--help")
    assert said.returncode == 0, said.stderr
    assert "--disaggregation-mode" in said.stdout
    assert f'pip install "ai-dynamo[{component}]"' in said.stdout
    assert run("-c", f"from dynamo.{component} import main").returncode == 0
    tried = run("-m", f"dynamo.{component}", "--model-path", "M")
    assert tried.returncode == 1
    assert tried.stderr.count("\n") == 1
    assert f'pip install "ai-dynamo[{component}]"' in tried.stderr


def test_a_wrong_command_line_ends_with_2_and_one_line():
    tried = run("-m", "dynamo.trtllm", "--disaggregation-mode", "x", "--model", "M", path=FAKES)
    assert tried.returncode == 2
    assert "use agg, prefill or decode" in tried.stderr
    tried = run("-m", "dynamo.trtllm", "--model", "M", "--max-batch-sise", "8", path=FAKES)
    assert tried.returncode == 2
    assert "--max-batch-size" in tried.stderr
    # SGLang's own parser speaks.
    tried = run("-m", "dynamo.sglang", "--model", "M", "--tp-sise", "8", path=FAKES)
    assert tried.returncode == 2
    assert "--tp-sise" in tried.stderr
