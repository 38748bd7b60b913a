"""A component as Kubernetes objects, plain dictionaries. Pure: no cluster is asked."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dynamo.graph import words
from dynamo.graph.component import Component
from dynamo.graph.words import declared
from dynamo.runtime.arguments.document import Table
from dynamo.runtime.arguments.nearest import suggestion

#: Longest name of most Kubernetes objects.
MAX_NAME = 63

#: How long a pod may take to end: the drain of a component, and a little for the rest.
GRACE_SECONDS = 60

#: Times that a starting component may fail its probe before it counts as broken: engines load for
#: minutes. With the period below: one hour.
STARTUP_FAILURES = 360
PERIOD_SECONDS = 10

_RESOURCES = {
    "cpu": "cpu",
    "memory": "memory",
    "gpu": "nvidia.com/gpu",
    "storage": "ephemeral-storage",
}
_SECRET = re.compile(r"\$\{\{\s*secrets\.([A-Za-z0-9_.-]+)\s*\}\}")


class ManifestError(ValueError):
    """What a deployment says cannot be put into a manifest."""


def command(component: Component) -> list[str]:
    """`python3 -m MODULE FLAGS`"""
    return ["python3", "-m", component.module, *arguments(component)]


def arguments(component: Component) -> list[str]:
    """The flags that a class names, as words."""
    if not isinstance(component.arguments, Mapping):
        return [str(word) for word in component.arguments]
    table = words.of_python(component.arguments)
    assert isinstance(table, Table)
    options = words.declared(component.module)
    found: list[str] = []
    for key, node, _ in table:
        try:
            found += words.words(key, node, component.module, options)
        except words.BadOption as error:
            raise ManifestError(f"{component.name}: {error}") from error
    return found


def _check_address(component: Component, words: list[str]) -> None:
    """A port that nobody outside of the pod can reach is a mistake that is found late."""
    options = declared(component.module) or []
    if component.port is None or not any(option.key == "http_host" for option in options):
        return
    hosts = [after for word, after in zip(words, words[1:], strict=False) if word == "--http-host"]
    if not hosts or hosts[-1].startswith("127.") or hosts[-1] == "localhost":
        raise ManifestError(
            f"{component.name} listens on loopback, where its port {component.port} cannot be reached; "
            'add "http-host": "0.0.0.0" to its arguments'
        )


def pod_template(component: Component, graph: str = "") -> dict[str, Any]:
    """The `template` of a Deployment, and of whatever else makes pods."""
    graph = graph or component.namespace
    container: dict[str, Any] = {"name": "main"}
    if component.image:
        container["image"] = component.image
    else:
        raise ManifestError(
            f"{component.name} has no image; name what its containers are made from"
        )
    container["command"] = command(component)
    _check_address(component, container["command"])
    if environment := list(_environment(component, graph)):
        container["env"] = environment
    if ports := list(_ports(component)):
        container["ports"] = ports
    container.update(_probes(component))
    if limits := _limits(component):
        container["resources"] = {"requests": limits, "limits": dict(limits)}
    spec = {"terminationGracePeriodSeconds": GRACE_SECONDS, "containers": [container]}
    return {"metadata": {"labels": labels(component, graph)}, "spec": spec}


def manifest(component: Component, graph: str = "") -> list[dict[str, Any]]:
    """A Deployment, and a Service if the component has a port."""
    graph = graph or component.namespace
    name = dns_label(f"{graph}-{component.name}")
    own = labels(component, graph)
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": own},
        "spec": {
            "replicas": component.replicas,
            "selector": {"matchLabels": dict(own)},
            "template": pod_template(component, graph),
        },
    }
    if component.port is None:
        return [deployment]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": dict(own)},
        "spec": {
            "selector": dict(own),
            "ports": [{"name": "http", "port": component.port, "targetPort": "http"}],
        },
    }
    return [deployment, service]


def labels(component: Component, graph: str = "") -> dict[str, str]:
    """What its pods are found by."""
    return {
        "app.kubernetes.io/name": dns_label(component.name),
        "app.kubernetes.io/part-of": dns_label(graph or component.namespace),
        "app.kubernetes.io/managed-by": "dynamo",
    }


def dns_label(name: str) -> str:
    """A name that Kubernetes takes: lower case, hyphens for underscores.

    Raises:
        ManifestError: there is none for it.
    """
    label = name.lower().replace("_", "-").replace(".", "-")
    if len(label) > MAX_NAME:
        raise ManifestError(f"{label} is longer than the {MAX_NAME} characters that names may have")
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", label) is None:
        raise ManifestError(f'"{name}" makes no DNS label: use letters, digits and - between them')
    return label


def _environment(component: Component, graph: str) -> Iterator[dict[str, Any]]:
    for name, value in component.environment.items():
        text = str(value)
        secret = _SECRET.fullmatch(text)
        if secret is not None:
            key = {"name": f"{dns_label(graph)}-secrets", "key": secret[1]}
            yield {"name": name, "valueFrom": {"secretKeyRef": key}}
        elif "${{" in text:
            raise ManifestError(
                f"{component.name}: environment {name} mixes a secret with other text; a variable is "
                "the whole of ${{ secrets.NAME }}, or none of it"
            )
        else:
            yield {"name": name, "value": text}
    if component.system_port is not None:
        yield {"name": "DYN_SYSTEM_HOST", "value": "0.0.0.0"}
        yield {"name": "DYN_SYSTEM_PORT", "value": str(component.system_port)}


def _ports(component: Component) -> Iterator[dict[str, Any]]:
    for name, port in [("http", component.port), ("system", component.system_port)]:
        if port is not None:
            yield {"name": name, "containerPort": port}


def _probes(component: Component) -> dict[str, Any]:
    port = "system" if component.system_port is not None else "http" if component.port else None
    if port is None:
        return {}

    def probe(path: str, **more: int) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": port}, "periodSeconds": PERIOD_SECONDS, **more}

    return {
        "startupProbe": probe("/live", failureThreshold=STARTUP_FAILURES),
        "livenessProbe": probe("/live"),
        "readinessProbe": probe("/health"),
    }


def _limits(component: Component) -> dict[str, str]:
    limits = {}
    for name, amount in component.resources.items():
        known = name if "/" in name else _RESOURCES.get(name)
        if known is None:
            hint = suggestion(name, _RESOURCES) or f"; use {', '.join(_RESOURCES)}"
            raise ManifestError(f"{component.name}: resources has {name}{hint}")
        limits[known] = str(amount)
    return limits
