"""Where values come from, and how they are handed on."""

import argparse
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from dynamo.runtime.arguments import DynamoFlexibleArgumentParser
from dynamo.runtime.arguments.kinds import SIZE

ROOT = Path(__file__).resolve().parents[3]


def parser(environment=None, **more):
    made = DynamoFlexibleArgumentParser(
        "python3 -m dynamo.demo", environment=environment or {}, **more
    )
    made.add_argument("--block-size", type=int, default=16, min=1, max=128, env="DYN_BLOCK_SIZE")
    made.add_argument("--model-path", "--model", env=("DYN_MODEL_PATH", "OTHER_MODEL"))
    made.add_argument("--mode", choices=["agg", "prefill"], default="agg", env="DYN_MODE")
    made.add_argument("--stop", action="append", env="DYN_STOP")
    made.add_argument("--wait", type=timedelta, default=timedelta(seconds=1))
    made.add_argument("--room", type=SIZE, default=1024)
    made.add_argument("--eager", action="store_true", env="DYN_EAGER")
    made.add_argument("--cache", type=bool, default=True, env="DYN_CACHE")
    return made


def file(tmp_path, text, name="config.yaml"):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_a_flag_wins_over_the_environment_that_over_the_file_and_that_over_the_default(tmp_path):
    config = file(tmp_path, "block_size: 3\nmode: prefill\nroom: 64KiB\n")
    read = parser({"DYN_BLOCK_SIZE": "2", "DYN_MODE": "prefill"})
    parsed = read.parse_args(["--block-size", "1", "-f", config])
    assert (parsed.block_size, parsed.mode, parsed.room) == (1, "prefill", 65_536)
    assert parsed.wait == timedelta(seconds=1)
    sources = {name: str(source) for name, source in parsed.sources.items()}
    assert sources["block_size"] == "flag --block-size"
    assert sources["mode"] == "env DYN_MODE"
    assert sources["room"] == f"file {config}:3"
    assert sources["wait"] == "default"


def test_what_is_overridden_may_hold_anything():
    assert parser({"DYN_BLOCK_SIZE": "much"}).parse_args(["--block-size", "1"]).block_size == 1


def test_underscores_and_hyphens_are_the_same():
    parsed = parser().parse_args(["--block_size=8", "--model_path", "a_b", "--no_cache"])
    assert (parsed.block_size, parsed.model_path, parsed.cache) == (8, "a_b", False)


@pytest.mark.parametrize(
    ("words", "environment", "expected"),
    [
        ([], {}, True),
        (["--no-cache"], {}, False),
        (["--cache=false"], {}, False),
        (["--no-cache", "--cache"], {}, True),
        ([], {"DYN_CACHE": "off"}, False),
        (["--cache"], {"DYN_CACHE": "0"}, True),
    ],
)
def test_switches(words, environment, expected):
    assert parser(environment).parse_args(words).cache is expected


def test_lists():
    assert parser().parse_args(["--stop", "a", "--stop", "b c"]).stop == ["a", "b c"]
    assert parser({"DYN_STOP": "a, b c"}).parse_args([]).stop == ["a", "b", "c"]
    assert parser().parse_args([]).stop == []


def test_the_first_variable_that_is_set_counts():
    read = parser({"OTHER_MODEL": "second"})
    assert read.parse_args([]).model_path == "second"
    assert str(read.parse_args([]).sources["model_path"]) == "env OTHER_MODEL"


def test_none_unsets_what_is_optional():
    assert parser({"DYN_MODEL_PATH": "m"}).parse_args(["--model", "none"]).model_path is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python reads TOML from 3.11 on")
def test_the_file_may_be_toml_and_have_sections(tmp_path):
    config = file(tmp_path, 'wait = "1m30s"\n\n[demo]\neager = true\nblock_size = 1_0\n', "c.toml")
    parsed = parser({"DYN_CONFIG": config}).parse_args([])
    assert (parsed.wait, parsed.eager, parsed.block_size) == (timedelta(seconds=90), True, 10)
    assert str(parsed.sources["block_size"]) == f"file {config}:5"


def test_values_are_attributes_and_nothing_else_is():
    assert set(vars(parser().parse_args([]))) == {
        "block_size", "model_path", "mode", "stop", "wait", "room", "eager", "cache"
    }  # fmt: skip


def test_positional_words_and_subcommands_are_argparse_s():
    read = DynamoFlexibleArgumentParser("demo", environment={})
    read.add_argument("number", type=int)
    read.add_argument("--name", default="x")
    parsed = read.parse_args(["5", "--name", "y"])
    assert (parsed.number, parsed.name) == (5, "y")


def test_options_in_groups_are_options():
    read = DynamoFlexibleArgumentParser("demo", environment={"DYN_N": "4"})
    read.add_argument_group("more").add_argument("--n", type=int, default=1, env="DYN_N")
    assert read.parse_args([]).n == 4


def test_options_of_the_runtime_are_handed_on(tmp_path):
    config = file(tmp_path, "runtime:\n  request_plane: tcp\nhf_hub_offline: true\n")
    read = parser({"DYN_DISCOVERY_BACKEND": "mem"})
    read.add_runtime_arguments()
    parsed = read.parse_args(
        [
            "-f",
            config,
            "--namespace",
            "here",
            "--etcd-endpoints",
            "http://a",
            "--drain-timeout",
            "90s",
        ]
    )
    assert parsed.discovery_backend == "mem"
    assert parsed.drain_timeout == timedelta(seconds=90)
    # What the environment says the runtime reads by itself.
    assert read.runtime_arguments(parsed) == [
        "--hf-hub-offline",
        "--namespace=here",
        "--etcd-endpoints",
        "http://a",
        "--request-plane=tcp",
        "--drain-timeout=1m30s",
    ]


def test_what_is_handed_on_is_what_the_runtime_takes(deployment):
    output = deployment.ask(
        """
import asyncio
from dynamo.runtime import DistributedRuntime
from dynamo.runtime.arguments import DynamoFlexibleArgumentParser

parser = DynamoFlexibleArgumentParser("demo")
parser.add_runtime_arguments()
parsed = parser.parse_args()

async def main():
    loop = asyncio.get_running_loop()
    runtime = DistributedRuntime(loop, arguments=parser.runtime_arguments(parsed))
    print(runtime.default_namespace)
    runtime.shutdown()

asyncio.run(main())
""",
        "--namespace=there",
        "--discovery_backend",
        "mem",
    )
    assert output.strip() == "there"


def engine():
    made = argparse.ArgumentParser("engine")
    made.add_argument("--tensor-parallel-size", "-tp", type=int, default=1)
    made.add_argument("--trust_remote_code", action="store_true")
    made.add_argument("--dtype", choices=["auto", "half"], default="auto")
    made.add_argument("--names", nargs="+", default=[])
    made.add_argument("--transfer", type=str)
    made.add_argument("--offset", type=int)
    made.add_argument("--mask")
    made.add_argument("--prefixes", action=argparse.BooleanOptionalAction, default=True)
    made.add_argument("--mode")
    return made


def with_engine(environment=None, **more):
    read = parser(environment)
    read.add_engine_arguments(engine, name="demo-engine", **more)
    return read


def test_an_engine_s_own_flags_go_to_its_parser():
    read = with_engine()
    parsed = read.parse_args(
        [
            "--block-size",
            "8",
            "-tp",
            "2",
            "--trust-remote-code",
            "--names",
            "a",
            "b",
            "--",
            "--mode",
            "x",
        ]
    )
    assert parsed.block_size == 8
    args = read.engine_arguments(parsed, ["--dtype", "half"])
    assert args.tensor_parallel_size == 2
    assert args.trust_remote_code
    assert args.names == ["a", "b"]
    assert (args.dtype, args.mode) == ("half", "x")


def test_an_engine_s_options_in_a_file_become_its_flags(tmp_path):
    config = file(
        tmp_path,
        """
demo:
  block_size: 8
  tensor-parallel-size: 4
  trust_remote_code: true
  prefixes: false
  names: [a, "b c"]
engine:
  mode: theirs
  transfer: {connector: nixl, ports: [1, 2]}
  dtype: half
  offset: -5
  mask: -x
""",
    )
    read = with_engine()
    parsed = read.parse_args(["-f", config, "-tp", "2"])
    assert parsed.mode == "agg"
    args = read.engine_arguments(parsed)
    assert args.tensor_parallel_size == 2, "the command line wins"
    assert args.trust_remote_code and args.prefixes is False
    assert args.names == ["a", "b c"]
    assert args.mode == "theirs"
    assert (args.dtype, args.offset, args.mask) == ("half", -5, "-x")
    assert args.transfer == '{"connector": "nixl", "ports": [1, 2]}'


def test_a_flag_of_both_is_whose_it_is_said_to_be():
    assert with_engine(keep=["--mode"]).parse_args(["--mode", "prefill"]).mode == "prefill"


def test_the_engine_is_not_asked_for_before_it_is_needed():
    read = parser()
    read.add_engine_arguments(lambda: pytest.fail("imported"), name="demo-engine")
    with pytest.raises(SystemExit):
        read.parse_args(["--help"])


def test_a_component_prints_what_it_would_do(tmp_path, capsys):
    config = file(tmp_path, "demo:\n  tensor_parallel_size: 4\n")
    read = with_engine({"DYN_STOP": "a b"})
    read.add_argument("--api-key", secret=True)
    with pytest.raises(SystemExit) as ended:
        read.parse_args(["--print-config", "-f", config, "--api-key", "hunter2", "--dtype", "half"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out.replace(config, "FILE")
    assert printed == (
        "[demo]\n"
        "block_size = 16  # default\n"
        'model_path = "none"  # default\n'
        'mode = "agg"  # default\n'
        'stop = ["a", "b"]  # env DYN_STOP\n'
        'wait = "1s"  # default\n'
        'room = "1KiB"  # default\n'
        "eager = false  # default\n"
        "cache = true  # default\n"
        'api_key = "<set>"  # flag --api-key\n'
        "\n[engine]  # demo-engine's own; what is not named has its default\n"
        "# --tensor-parallel-size 4  # file FILE:2\n"
        "# --dtype half  # flag\n"
    )


def test_help_tells_bounds_defaults_and_variables(capsys):
    read = DynamoFlexibleArgumentParser("demo")
    read.add_argument(
        "--size", type=int, default=16, min=1, max=128, env="DYN_SIZE", help="How big."
    )
    read.add_argument("--wait", type=timedelta, default=timedelta(minutes=1.5), help="How long.")
    read.add_argument("--share", default="50%", help="How much.")
    with pytest.raises(SystemExit):
        read.parse_args(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "--size SIZE How big. [from 1 to 128] [default: 16] [env: DYN_SIZE]" in printed
    assert "--wait DURATION How long. [default: 1m30s]" in printed
    assert "--share SHARE How much. [default: 50%]" in printed


def test_the_runtime_s_part_is_printed_as_the_command_prints_it(tmp_path):
    """The same values, the same sources, to the letter."""
    config = file(tmp_path, "runtime:\n  etcd_lease_ttl: 90s\n  otel_sample_ratio: 0.5\n")
    environment = {name: value for name, value in os.environ.items() if name[:4] != "DYN_"}
    environment |= {"DYN_LOG": "debug", "ETCD_ENDPOINTS": "http://a,http://b", "HF_TOKEN": "secret"}
    words = ["--print-config", "-f", config, "--tcp-port", "5", "--nats-jetstream"]
    script = (
        "from dynamo.runtime.arguments import DynamoFlexibleArgumentParser as P\n"
        "p = P('demo'); p.add_runtime_arguments(); p.parse_args()"
    )

    def printed(*command):
        done = subprocess.run(
            [sys.executable, *command, *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        groups = [group.strip() for group in done.stdout.split("\n\n")]
        shared = ("[hub]", "[runtime]", "[tcp-tls]", "[nats]")
        return [group for group in groups if group.startswith(shared)]

    ours, theirs = printed("-c", script), printed("-m", "dynamo.frontend")
    assert ours == theirs
    assert len(ours) == 4


def test_a_misspelt_variable_is_told_of(caplog):
    parser({"DYN_BLOCK_SIZ": "2", "DYN_HTTP_PORT": "1"}).parse_args([])
    assert caplog.messages == [
        "unknown environment variable DYN_BLOCK_SIZ; did you mean DYN_BLOCK_SIZE"
    ]
