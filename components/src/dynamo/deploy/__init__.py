"""What makes a component deployable: `BaseDeployment`.

    class Deployment(BaseDeployment):
        namespace = "dynamo"
        name = "sgldecode"
        resources = {"gpu": 1}

It is data with helpers: it starts nothing and talks to no cluster.
"""

from dynamo.deploy.deployment import BaseDeployment
from dynamo.deploy.manifests import ManifestError

__all__ = ["BaseDeployment", "ManifestError"]
