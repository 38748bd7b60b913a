"""Deployments as data: defaults, overrides, manifests, endpoints, graphs of them."""

import pytest

from dynamo.deploy import BaseDeployment, ManifestError
from dynamo.deploy.endpoints import EndpointPath, endpoint, endpoints
from dynamo.graph import Component, Graph, GraphError, load


class Worker(BaseDeployment):
    namespace = "shop"
    name = "my_worker"
    module = "dynamo.mocker"
    image = "dynamo:latest"
    replicas = 2
    resources = {"gpu": 1, "cpu": "4", "memory": "16Gi", "example.com/nic": 2}
    arguments = {"model-path": "m", "enable_prefix_caching": False, "speedup-ratio": 2.5}
    environment = {"HF_TOKEN": "${{ secrets.HF_TOKEN }}", "A": "b"}
    system_port = 9090


class Frontend(BaseDeployment):
    namespace = "shop"
    module = "dynamo.frontend"
    image = "dynamo:latest"
    port = 8000
    calls = (Worker,)
    arguments = {"http-host": "0.0.0.0"}


def test_names_are_made_of_classes():
    class PrefillWorker(BaseDeployment):
        pass

    assert PrefillWorker().name == "prefill-worker"
    assert PrefillWorker().module == __name__
    assert PrefillWorker().namespace == "dynamo"


def test_an_instance_may_say_otherwise():
    other = Worker(replicas=5, resources={"gpu": 8})
    assert (other.replicas, other.resources, other.name) == (5, {"gpu": 8}, "my_worker")
    assert Worker().replicas == 2
    with pytest.raises(TypeError, match="Worker has no replica; did you mean replicas"):
        Worker(replica=5)


def test_an_attribute_that_is_nearly_ours_is_a_mistake():
    with pytest.raises(TypeError, match="Wrong has resource; did you mean resources"):
        type("Wrong", (BaseDeployment,), {"resource": {"gpu": 1}})
    own = type("Right", (BaseDeployment,), {"colour": "blue", "image_of": lambda self: 1})
    assert own().colour == "blue"


def test_endpoints():
    assert endpoints(Worker) == [EndpointPath("shop", "my_worker", "generate")]
    assert str(endpoint(Worker)) == "dyn://shop.my_worker.generate"
    assert Worker().endpoint("load") == EndpointPath("shop", "my_worker", "load")
    assert EndpointPath.parse("a.b.c") == EndpointPath.parse("dyn://a.b.c")
    with pytest.raises(ValueError, match="did you mean generate"):
        endpoint(Worker, "generat")
    with pytest.raises(ValueError, match="is no endpoint"):
        EndpointPath.parse("dyn://a.b")


def test_the_command_is_what_a_shell_would_start():
    assert Worker().command() == [
        *["python3", "-m", "dynamo.mocker", "--model-path", "m"],
        *["--no-enable-prefix-caching", "--speedup-ratio", "2.5"],
    ]
    words = Worker(arguments=["--model-path", "x"]).command()
    assert words[3:] == ["--model-path", "x"]


def test_a_pod_template():
    template = Worker().pod_template("shop-graph")
    assert template["metadata"]["labels"] == {
        "app.kubernetes.io/name": "my-worker",
        "app.kubernetes.io/part-of": "shop-graph",
        "app.kubernetes.io/managed-by": "dynamo",
    }
    (container,) = template["spec"]["containers"]
    assert container["resources"]["limits"] == {
        "nvidia.com/gpu": "1",
        "cpu": "4",
        "memory": "16Gi",
        "example.com/nic": "2",
    }
    assert container["env"] == [
        {
            "name": "HF_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": "shop-graph-secrets", "key": "HF_TOKEN"}},
        },
        {"name": "A", "value": "b"},
        {"name": "DYN_SYSTEM_HOST", "value": "0.0.0.0"},
        {"name": "DYN_SYSTEM_PORT", "value": "9090"},
    ]
    assert container["readinessProbe"]["httpGet"] == {"path": "/health", "port": "system"}


def test_manifests_are_valid():
    validate = pytest.importorskip("kubernetes_validate")
    for manifest in [*Worker().manifest(), *Frontend().manifest()]:
        validate.validate(manifest, "1.31", strict=True)
    assert [it["kind"] for it in Frontend().manifest()] == ["Deployment", "Service"]
    assert [it["kind"] for it in Worker().manifest()] == ["Deployment"]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"image": ""}, "has no image"),
        ({"resources": {"gpus": 1}}, "resources has gpus; did you mean gpu"),
        (
            {"arguments": {"speedup": "fast"}},
            "no option of dynamo.mocker; did you mean speedup-ratio",
        ),
        ({"arguments": {"speedup-ratio": "fast"}}, "is not a finite number"),
        ({"environment": {"A": "x${{ secrets.B }}"}}, "mixes a secret"),
        ({"name": "_"}, "makes no DNS label"),
        ({"name": "x" * 70}, "longer than"),
    ],
)
def test_what_makes_no_manifest_says_why(values, says):
    with pytest.raises(ManifestError, match=says):
        Worker(**values).manifest()


def test_a_port_on_loopback_is_no_service():
    with pytest.raises(ManifestError, match="listens on loopback"):
        Frontend(arguments={}).manifest()


def test_a_graph_may_be_one_class_and_whom_it_calls():
    graph = load(f"{__name__}:Frontend")
    assert [it.name for it in graph.components] == ["frontend", "my_worker"]
    assert graph.stages()[0][0].name == "frontend"


def test_components_may_be_listed_without_classes():
    graph = Graph.of(
        [
            Component("front", "dynamo.frontend", calls=["dyn://dynamo.a.generate"]),
            Component("a", "dynamo.mocker", calls=["dynamo.b.generate"]),
            Component("b", "dynamo.mocker"),
        ]
    )
    assert [[it.name for it in stage] for stage in graph.stages()] == [["front"], ["a"], ["b"]]


def test_deployments_of_one_class_name_are_told_apart_by_their_own():
    one = type("Deployment", (BaseDeployment,), {"name": "one", "module": "dynamo.mocker"})
    two = type("Deployment", (BaseDeployment,), {"name": "two", "module": "dynamo.mocker"})
    assert len(Graph.of([one, two]).components) == 2
    with pytest.raises(GraphError, match="two components are called one"):
        Graph.of([one, one(replicas=2)])
