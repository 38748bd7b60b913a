"""What is known of a component before it runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dynamo.graph.endpoint import EndpointPath

DEFAULT_NAMESPACE = "dynamo"
DEFAULT_ENDPOINTS = ("generate",)


@dataclass(frozen=True)
class Component:
    """One kind of process of a graph.

    Attributes:
        name: how it is called in the graph, in files and in output; the component of its endpoints.
        module: what `python3 -m` starts.
        namespace: of its endpoints.
        endpoints: what it can be asked.
        calls: the endpoints that it asks: paths, or classes whose endpoints are meant. Who calls
            is asked to end before who is called.
        replicas: how many processes.
        arguments: its flags: names with values (`{"http-port": 8000}`), or words.
        environment: variables for its processes, beside those of whoever starts them.
        resources: what one process needs: `{"gpu": 1, "cpu": "4", "memory": "16Gi"}`.
        image: what a container of it is made from.
        port: where it listens for HTTP, if it does.
        system_port: where its status server listens for probes, if it does.
        title: another name by which files call it; that of its class.
    """

    name: str
    module: str
    namespace: str = DEFAULT_NAMESPACE
    endpoints: tuple[str, ...] = DEFAULT_ENDPOINTS
    calls: Sequence[Any] = ()
    replicas: int = 1
    arguments: Mapping[str, Any] | Sequence[str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    image: str = ""
    port: int | None = None
    system_port: int | None = None
    title: str = ""

    @property
    def paths(self) -> list[EndpointPath]:
        """The paths of its endpoints."""
        return [EndpointPath(self.namespace, self.name, it) for it in self.endpoints]

    @property
    def names(self) -> tuple[str, ...]:
        """What files may call it."""
        return (self.name,) if self.title in ("", self.name) else (self.title, self.name)
