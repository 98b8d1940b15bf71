"""The records of an adapter and of its registered version."""

from __future__ import annotations

from typing import ClassVar, Literal

from softalign.artifacts.record import Record, Stage

Family = Literal["sd15", "sd21", "sdxl", "sd3", "sd35"]
"""Of base models; what is known of each: ``softalign.config.families``."""


class Adapter(Record):
    """Trained soft tokens: weights, ``adapter_config.json``, ``train_config.json``, ``README.md``, ``metrics.jsonl``.

    The step-0 adapter lies in ``initial/``: the untrained arm of every evaluation.
    """

    stage: ClassVar[Stage] = "train"
    filename: ClassVar[str] = "adapter.json"

    name: str
    base_model: str
    base_model_revision: str
    backbone_digest: str
    family: str
    objective: str
    num_parameters: int
    num_steps: int
    samples_seen: int
    weights_sha256: str
    dataset_digest: str


class ModelVersion(Record):
    """One registered version: ``version.json`` holds what was decided and why."""

    stage: ClassVar[Stage] = "register"
    filename: ClassVar[str] = "version.json"

    name: str
    version: int
    alias: Literal["champion", "challenger"]
    is_promoted: bool
    reason: str
    run_id: str
    tracking_uri: str
    weights_sha256: str
