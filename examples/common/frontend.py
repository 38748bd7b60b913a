"""The frontend, as a component of graphs and as a program of its own.

    python3 examples/common/frontend.py --http-port 8000

It is `python3 -m dynamo.frontend`, with the same flags.
"""

from dynamo.deploy import BaseDeployment
from dynamo.frontend import main


class Frontend(BaseDeployment):
    """Speaks the OpenAI API; it finds workers by itself. Graphs derive from it to say whom it calls."""

    module = "dynamo.frontend"
    arguments = {"http-port": 8000}


if __name__ == "__main__":
    main()
