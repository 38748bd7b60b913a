"""`dynamo serve MODULE:GRAPH -f config.yaml`: a graph's components as processes of this machine.

- `plan`: from graph and file to command lines (pure)
- `lifecycle`: who is started, asked to end, killed, and when (pure)
- `processes`, `output`: the processes themselves, and their lines
- `main`: the command

Each component is `python3 -m MODULE FLAGS`, shown as it is started; it runs the same by hand.
"""

from dynamo.serve.main import main

__all__ = ["main"]
