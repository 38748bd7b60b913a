"""Graphs of components: who is started how, and who calls whom.

    GRAPH = [Component("frontend", "dynamo.frontend", calls=["dyn://dynamo.backend.generate"]),
             Component("backend", "dynamo.mocker")]

`dynamo serve MODULE:GRAPH` runs one on this machine. Classes (`dynamo.deploy.BaseDeployment`) say
the same and can make Kubernetes manifests.
"""

from dynamo.graph.component import Component
from dynamo.graph.endpoint import EndpointPath
from dynamo.graph.graph import Graph, GraphError
from dynamo.graph.loading import load

__all__ = ["Component", "EndpointPath", "Graph", "GraphError", "load"]
