"""The Helm chart, rendered by Helm itself and checked against Kubernetes' own schemas; no cluster is asked."""

from pathlib import Path

import helm_python as helm
import kubernetes_validate
import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "infra/chart/softalign"
KINDS = {
    "defaults": {},
    **{name: yaml.safe_load((CHART / f"ci/{name}.yaml").read_text()) for name in ("gpu-spot", "minimal")},
}
NAMESPACE = "align"


def rendered(values):
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="demo", namespace=NAMESPACE)
    texts = (text for name, text in files.items() if name.endswith(".yaml"))
    return [found for text in texts for found in yaml.safe_load_all(text) if found]


def pods(values):
    """Return the pod of every Deployment and Job by its name."""
    found = (each for each in rendered(values) if each["kind"] in ("Deployment", "Job"))
    return {each["metadata"]["name"].removeprefix("demo-"): each["spec"]["template"]["spec"] for each in found}


@pytest.mark.parametrize("kind", KINDS)
def test_every_manifest_is_valid(kind):
    found = rendered(KINDS[kind])
    names = [(each["kind"], each["metadata"]["name"]) for each in found]
    assert len(set(names)) == len(names) >= 7
    for each in found:
        kubernetes_validate.validate(each, "1.34", strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_pod_is_root_writes_its_image_or_knows_the_cluster(kind):
    for name, pod in pods(KINDS[kind]).items():
        assert pod["automountServiceAccountToken"] is False and pod["securityContext"]["runAsNonRoot"], name
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"] and container["resources"]["requests"], name
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {"/tmp", "/home/softalign"} <= mounted
        assert {mount["name"] for mount in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
        assert ":latest" not in container["image"]
        if not name == "deploy":
            assert "readinessProbe" in container


def test_every_credential_is_a_reference():
    for pod in pods(KINDS["gpu-spot"]).values():
        for variable in pod["containers"][0]["env"]:
            if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "TOKEN", "AUTH_STRING", "ACCESS_KEY")):
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "softalign", variable["name"]
    assert not [each for each in rendered(KINDS["gpu-spot"]) if each["kind"] == "Secret"]


def test_both_servers_ask_for_a_password():
    servers = pods({})
    assert "--app-name=basic-auth" in servers["mlflow"]["containers"][0]["args"]
    names = {variable["name"] for variable in servers["prefect"]["containers"][0]["env"]}
    assert {"PREFECT_SERVER_API_AUTH_STRING", "PGPASSWORD"} <= names


def test_a_gpu_worker_asks_for_its_gpu_on_nodes_that_may_go():
    found = pods(KINDS["gpu-spot"])
    gpu, cpu = found["worker-gpu"], found["worker-cpu"]
    container = gpu["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in cpu["containers"][0]["resources"]["limits"]
    assert gpu["nodeSelector"] == {"softalign/gpu": "h100"}
    keys = {each["key"] for each in gpu["tolerations"]}
    assert {"nvidia.com/gpu", "softalign/spot"} <= keys and "tolerations" not in cpu
    assert gpu["terminationGracePeriodSeconds"] == 120 and cpu["terminationGracePeriodSeconds"] == 300
    assert container["image"].startswith("registry.example.org/team/softalign-worker-gpu@sha256:")
    assert "--pool gpu" in container["command"][2]
    budgets = {
        each["metadata"]["name"] for each in rendered(KINDS["gpu-spot"]) if each["kind"] == "PodDisruptionBudget"
    }
    assert budgets == {"demo-worker-cpu", "demo-worker-gpu"}


def test_the_network_is_closed_but_for_the_release_and_those_named():
    policies = {
        each["metadata"]["name"]: each["spec"]
        for each in rendered(KINDS["gpu-spot"])
        if each["kind"] == "NetworkPolicy"
    }
    assert "ingress" not in policies["demo-workers"]
    for name in ("demo-prefect", "demo-mlflow"):
        (rule,) = policies[name]["ingress"]
        assert rule["from"][1:] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"existingSecret": ""}, "existingSecret"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"workers": {"gpu": {"terminationGracePeriodSeconds": 10}}}, "terminationGracePeriodSeconds"),
        ({"s3": {"store": "/folder"}}, "store"),
        ({"postgres": {"password": "x"}}, "password"),
    ],
)
def test_values_that_cannot_be_right_are_refused(values, named):
    with pytest.raises(helm.HelmError, match=named):
        rendered(values)


def test_helm_finds_no_error():
    assert helm.lint(str(CHART))["errors"] == []
