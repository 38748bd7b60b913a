"""The command line of a Python component: flags, `DYN_*` environment, and a file, each option once.

    parser = DynamoFlexibleArgumentParser("vllm", description="Serves a model with vLLM.")
    parser.add_argument("--block-size", type=int, default=16, min=1, env="DYN_BLOCK_SIZE", help="...")
    parser.add_runtime_arguments()
    arguments = parser.parse_args()

- `parser`: the parser itself, a subclass of argparse's
- `declaration`, `kinds`: what an option is, and what its values look like as text
- `layers`: flag, then environment, then file, then default
- `config_file`, `document`, `yaml_subset`: what files hold
- `engine`: flags that an engine's own parser understands
- `printing`, `nearest`: what people see

The rules and the messages are those of the `dynamo` command, whose options the Rust crate
`lib/config` reads: a component in Python must not feel like another program.
"""

from dynamo.runtime.arguments.declaration import Option
from dynamo.runtime.arguments.layers import Source
from dynamo.runtime.arguments.parser import DynamoFlexibleArgumentParser, Parsed

__all__ = ["DynamoFlexibleArgumentParser", "Option", "Parsed", "Source"]
