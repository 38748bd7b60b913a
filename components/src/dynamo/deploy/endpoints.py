"""Paths of endpoints, for workers and graphs: `dyn://namespace.component.endpoint`."""

from typing import TYPE_CHECKING

from dynamo.graph.endpoint import EndpointPath

if TYPE_CHECKING:
    from dynamo.deploy.deployment import BaseDeployment


def endpoints(deployment: "BaseDeployment | type[BaseDeployment]") -> list[EndpointPath]:
    """What a deployment serves."""
    instance = deployment() if isinstance(deployment, type) else deployment
    return instance.component().paths


def endpoint(
    deployment: "BaseDeployment | type[BaseDeployment]", name: str = "generate"
) -> EndpointPath:
    """One endpoint of a deployment.

    Raises:
        ValueError: it has none of this name.
    """
    from dynamo.runtime.arguments.nearest import suggestion

    all_of_it = endpoints(deployment)
    for path in all_of_it:
        if path.endpoint == name:
            return path
    hint = suggestion(name, [path.endpoint for path in all_of_it])
    raise ValueError(f"{all_of_it[0].component if all_of_it else 'it'} serves no {name}{hint}")


__all__ = ["EndpointPath", "endpoint", "endpoints"]
