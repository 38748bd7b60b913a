"""Dynamo: distributed inference for large language models.

`dynamo.runtime` has what a worker needs, `dynamo.llm` what it says of its model. Every other package
is a component: `python3 -m dynamo.frontend` does what `dynamo frontend` does.
"""
