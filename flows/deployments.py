"""Which flows are deployed, to which pool: what ``softalign deploy`` makes, and ``infra/prefect.yaml`` too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prefect import Flow

from flows.curate import curate
from flows.evaluate import evaluate
from flows.promote import promote
from flows.recover import recover_run
from flows.refresh import refresh
from flows.register import register
from flows.retrain import retrain
from flows.train import train

TAG = "softalign"
"""Of runs that are looked after when they lose their process, and told of when they fail."""
UPKEEP_TAG = "softalign-upkeep"


@dataclass(frozen=True, slots=True)
class Deployed:
    """One deployment.

    Attributes:
        name: of the deployment.
        flow: what it runs.
        pool: whose workers run it: ``gpu`` where a model is used.
        takes_recipe: its parameters are a recipe, overrides and a store.
        tag: of its runs.
    """

    name: str
    flow: Flow[Any, Any]
    pool: Literal["cpu", "gpu"]
    takes_recipe: bool = True
    tag: str = TAG

    @property
    def full_name(self) -> str:
        """As Prefect's commands take it."""
        return f"{self.flow.name}/{self.name}"


DEPLOYMENTS = (
    Deployed("retrain", retrain, "gpu"),
    Deployed("curate", curate, "cpu"),
    Deployed("refresh", refresh, "gpu"),
    Deployed("train", train, "gpu"),
    Deployed("evaluate", evaluate, "gpu"),
    Deployed("register", register, "cpu"),
    Deployed("promote", promote, "cpu", takes_recipe=False),
    Deployed("recover", recover_run, "cpu", takes_recipe=False, tag=UPKEEP_TAG),
)
