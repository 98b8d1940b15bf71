"""Work pools for the flows: processes, containers or Kubernetes jobs, of CPU machines and of GPU machines."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Literal

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound

from softalign.errors import ConfigError

PoolType = Literal["process", "docker", "kubernetes"]
POOLS = ("cpu", "gpu")
SECRET = "softalign"  # noqa: S105  # a name, not a secret
"""The Kubernetes secret whose keys are the jobs' environment: credentials by reference."""
GRACE_S = 180
"""Longer than a checkpoint takes: how long a job may go on after it is asked to end."""


def ensure_pools(client: SyncPrefectClient, kind: PoolType, image: str | None) -> list[str]:
    """Make the pools that are not there, give those of containers their template, and return what was done.

    Raises:
        ConfigError: a pool of that name is of another kind.
    """
    done = []
    for name in POOLS:
        template = _template(client, kind, image, uses_gpu=name == "gpu")
        try:
            present = client.read_work_pool(name)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template or {}))
            done.append(f"made the work pool {name} ({kind})")
            continue
        if present.type != kind:
            raise ConfigError(
                "There is a work pool of that name and another kind.",
                expected=kind,
                found=present.type,
                where=name,
                fix=f"name its kind (--pool-type {present.type}), or remove it: prefect work-pool delete {name}",
            )
        if template and present.base_job_template != template:
            client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))
            done.append(f"renewed the job template of the work pool {name}")
    return done


def _template(client: SyncPrefectClient, kind: PoolType, image: str | None, *, uses_gpu: bool) -> dict[str, Any] | None:
    if kind == "process" or image is None:
        return None
    metadata = client.read_worker_metadata()
    return job_template(
        metadata[f"prefect-{kind}"][kind]["default_base_job_configuration"], kind, image, uses_gpu=uses_gpu
    )


def job_template(
    default: dict[str, Any], kind: Literal["docker", "kubernetes"], image: str, *, uses_gpu: bool
) -> dict[str, Any]:
    """Return the template of a pool's jobs.

    Args:
        default: Prefect's own for this kind.
        kind: of the pool.
        image: of the jobs.
        uses_gpu: they ask for one GPU.
    """
    made = deepcopy(default)
    made["variables"]["properties"]["image"]["default"] = image
    if kind == "docker":
        if uses_gpu:
            gpu = [{"Driver": "nvidia", "Count": 1, "Capabilities": [["gpu"]]}]
            made["job_configuration"]["container_create_kwargs"] = {"device_requests": gpu}
        return made
    pod = made["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    pod["terminationGracePeriodSeconds"] = GRACE_S
    (container,) = pod["containers"]
    container["envFrom"] = [{"secretRef": {"name": SECRET}}]
    if uses_gpu:
        container["resources"] = {"limits": {"nvidia.com/gpu": 1}}
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return made
