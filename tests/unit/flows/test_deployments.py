"""The table of deployments, the file for `prefect deploy`, and pools' job templates say the same."""

from pathlib import Path

import pytest
import yaml

from flows.deploy import schedule_text, schedules_of
from flows.deployments import DEPLOYMENTS
from flows.names import name_of
from flows.server.pools import GRACE_S, SECRET, job_template

INFRA = Path(__file__).parents[3] / "infra"


def test_the_file_has_the_tables_deployments():
    listed = yaml.safe_load((INFRA / "prefect.yaml").read_text())["deployments"]
    of_file = {(one["name"], one["entrypoint"].split(":")[1], one["work_pool"]["name"], *one["tags"]) for one in listed}
    assert of_file == {(one.name, one.flow.fn.__name__, one.pool, one.tag) for one in DEPLOYMENTS}


@pytest.mark.parametrize(
    ("given", "said"),
    [("retrain=0 3 * * *", "cron 0 3 * * * (Europe/Berlin)"), ("refresh=6h", "every 6:00:00 (Europe/Berlin)")],
)
def test_schedules_are_read(given, said):
    ((name, schedule),) = schedules_of([given], "Europe/Berlin").items()
    assert (name, schedule_text(schedule)) == (given.partition("=")[0], said)


def test_an_inline_recipes_run_is_named_after_it():
    from datetime import datetime

    moment = datetime(2026, 11, 26, 1, 42)
    names = {name_of("retrain", {"name": "cats", "train": {"seed": seed}}, (), moment, "9f3e") for seed in (1, 2)}
    assert len(names) == 2
    assert all(name.startswith("retrain-cats-set") for name in names)


def defaults(kind):
    manifest = {"spec": {"template": {"spec": {"containers": [{"name": "job", "image": "{{ image }}"}]}}}}
    configuration = {"image": "{{ image }}", **({"job_manifest": manifest} if kind == "kubernetes" else {})}
    return {"variables": {"properties": {"image": {"type": "string"}}}, "job_configuration": configuration}


@pytest.mark.parametrize("uses_gpu", [False, True])
def test_a_kubernetes_job_has_secrets_by_reference_and_time_for_a_checkpoint(uses_gpu):
    made = job_template(defaults("kubernetes"), "kubernetes", "repository:1", uses_gpu=uses_gpu)
    pod = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == GRACE_S
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": SECRET}}]
    assert ("nvidia.com/gpu" in str(pod["containers"][0])) is uses_gpu
    assert made["variables"]["properties"]["image"]["default"] == "repository:1"


@pytest.mark.parametrize("uses_gpu", [False, True])
def test_a_container_asks_for_a_gpu_in_the_gpu_pool_alone(uses_gpu):
    made = job_template(defaults("docker"), "docker", "repository:1", uses_gpu=uses_gpu)
    assert ("device_requests" in str(made["job_configuration"])) is uses_gpu


def test_prefects_own_templates_have_the_places_that_are_filled():
    import json

    import prefect.server.api

    path = Path(prefect.server.api.__file__).parent / "collections_data/views/aggregate-worker-metadata.json"
    known = json.loads(path.read_text())
    for kind in ("docker", "kubernetes"):
        default = known[f"prefect-{kind}"][kind]["default_base_job_configuration"]
        assert job_template(default, kind, "repository:1", uses_gpu=True) != default
