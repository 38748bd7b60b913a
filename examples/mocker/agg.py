"""Aggregated: a frontend, and simulated workers that do everything."""

from dynamo.deploy import BaseDeployment


class Worker(BaseDeployment):
    name = "backend"
    module = "dynamo.mocker"


class Frontend(BaseDeployment):
    module = "dynamo.frontend"
    calls = (Worker,)


GRAPH = [Frontend, Worker]
