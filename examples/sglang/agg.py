"""Aggregated: a frontend, and workers that compute prompts and answers."""

from examples.common import frontend

from dynamo.deploy import BaseDeployment


class Worker(BaseDeployment):
    name = "backend"
    module = "dynamo.sglang"
    resources = {"gpu": 1}


class Frontend(frontend.Frontend):
    calls = (Worker,)


GRAPH = [Frontend, Worker]
