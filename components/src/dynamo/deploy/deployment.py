"""`BaseDeployment`: what is known of a component beside its code."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from dynamo.deploy import manifests
from dynamo.graph.component import DEFAULT_ENDPOINTS, DEFAULT_NAMESPACE, Component
from dynamo.graph.endpoint import EndpointPath
from dynamo.runtime.arguments.nearest import nearest, suggestion


class BaseDeployment:
    """Where a component stands, what it needs, and how it is started.

    A class derived from it names what differs; an instance may name other values again:
    `Deployment(replicas=2)`. Nothing of it is given to a process behind its back: `dynamo serve` shows
    the command line that it makes of this, and a worker that wants its namespace reads it here.

    Attributes: see `dynamo.graph.Component`. `name` is made of the class's if it is not given,
    `module` is the one that the class is in.
    """

    namespace: str = DEFAULT_NAMESPACE
    name: str = ""
    module: str = ""
    endpoints: Sequence[str] = DEFAULT_ENDPOINTS
    calls: Sequence[Any] = ()
    replicas: int = 1
    arguments: Mapping[str, Any] | Sequence[str] = {}
    environment: Mapping[str, str] = {}
    resources: Mapping[str, Any] = {}
    image: str = ""
    port: int | None = None
    system_port: int | None = None

    _known: ClassVar[frozenset[str]]

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not cls.__dict__.get("name"):
            cls.name = _words_of(cls.__name__)
        if not cls.__dict__.get("module"):
            cls.module = _named_module(cls) or cls.__module__
        for given in cls.__dict__:
            meant = None if given.startswith("_") else nearest(given, cls._known)
            # A class may have attributes of its own; one that is nearly ours is a mistake.
            if given not in cls._known and meant is not None and not _is_method(cls, given):
                raise TypeError(f"{cls.__name__} has {given}; did you mean {meant}")

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            if name not in self._known:
                hint = suggestion(name, self._known) or f"; it has {', '.join(sorted(self._known))}"
                raise TypeError(f"{type(self).__name__} has no {name}{hint}")
            setattr(self, name, value)
        if not self.name:
            self.name = _words_of(type(self).__name__)

    def component(self) -> Component:
        """The same as data."""
        return Component(
            name=self.name,
            module=self.module,
            namespace=self.namespace,
            endpoints=tuple(self.endpoints),
            calls=self.calls if isinstance(self.calls, str) else tuple(self.calls),
            replicas=self.replicas,
            arguments=self.arguments,
            environment=self.environment,
            resources=self.resources,
            image=self.image,
            port=self.port,
            system_port=self.system_port,
            title=type(self).__name__,
        )

    def endpoint(self, name: str = "generate") -> EndpointPath:
        """The path of one of its endpoints."""
        return EndpointPath(self.namespace, self.name, name)

    def command(self) -> list[str]:
        """What starts it: `python3 -m MODULE FLAGS`."""
        return manifests.command(self.component())

    def pod_template(self, graph: str = "") -> dict[str, Any]:
        """A Kubernetes pod template of it, as a plain dictionary.

        Args:
            graph: the name of the graph that it belongs to; its namespace if not given.

        Raises:
            ManifestError: what it says cannot be put into one.
        """
        return manifests.pod_template(self.component(), graph)

    def manifest(self, graph: str = "") -> list[dict[str, Any]]:
        """Kubernetes objects that run it: a Deployment, and a Service if it has a port."""
        return manifests.manifest(self.component(), graph)


BaseDeployment._known = frozenset(
    name for name in BaseDeployment.__annotations__ if not name.startswith("_")
)


def _named_module(cls: type) -> str | None:
    """The module that a base names, as against the one that it is in."""
    named = ((base, base.__dict__.get("module")) for base in cls.__mro__[1:])
    return next((module for base, module in named if module not in (None, "", base.__module__)), None)


def _words_of(name: str) -> str:
    """`PrefillWorker` is `prefill-worker`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name).lower()


def _is_method(cls: type, name: str) -> bool:
    value = inspect.getattr_static(cls, name)
    return callable(value) or isinstance(value, property | staticmethod | classmethod)
