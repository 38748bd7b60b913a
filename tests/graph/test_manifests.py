"""What is written for Kubernetes against the schemas of Kubernetes."""

import kubernetes_validate
import pytest
import yaml

# The oldest with all that is written (ordinals of StatefulSets), and the newest that is known.
VERSIONS = ["1.31", "1.35"]

GRAPHS = ["my-graph-config.yaml", "full.yaml"]


def documents(folder):
    for path in sorted(folder.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def check(document):
    for version in VERSIONS:
        kubernetes_validate.validate(document, version, strict=True)


def pod(spec):
    """A pod of this specification, since a schema is there for whole objects alone."""
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}


@pytest.mark.parametrize("graph", GRAPHS)
def test_plain_objects_are_what_kubernetes_takes(deploy, graph):
    folder = deploy(graph, "--target", "k8s")
    found = list(documents(folder))
    assert found
    names = [(document["kind"], document["metadata"]["name"]) for document in found]
    assert len(set(names)) == len(names)
    for document in found:
        check(document)
        assert document["kind"] != "Secret"


def test_the_example_is_complete(deploy):
    found = list(documents(deploy("my-graph-config.yaml", "--target", "k8s")))
    kinds = [document["kind"] for document in found]
    assert kinds.count("Deployment") == 2 and kinds.count("StatefulSet") == 4
    assert kinds.count("Job") == 1 and kinds.count("Service") == 3


@pytest.mark.parametrize("graph", GRAPHS)
def test_pods_of_leader_worker_sets(deploy, graph):
    found = [it for it in documents(deploy(graph, "--lws")) if it["kind"] == "LeaderWorkerSet"]
    assert found
    for document in found:
        templates = document["spec"]["leaderWorkerTemplate"]
        for name in ["leaderTemplate", "workerTemplate"]:
            check(pod(templates[name]["spec"]))


@pytest.mark.parametrize("graph", GRAPHS)
def test_pods_of_a_deployment_for_an_operator(deploy, graph):
    found = {it["kind"]: it for it in documents(deploy(graph, "--crd"))}
    check(found["Job"])
    services = found["DynamoGraphDeployment"]["spec"]["services"]
    assert found["DynamoGraphDeployment"]["apiVersion"] == "nvidia.com/v1alpha1"
    for service in services.values():
        spec = dict(service["extraPodSpec"])
        main = spec.pop("mainContainer")
        check(pod({**spec, "containers": [{"name": "main", **main}]}))
        assert set(service["resources"]["limits"]) <= {"memory", "gpu"} if "resources" in service else True
