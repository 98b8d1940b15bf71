"""The whole recipe: resolved, then validated once, with what one section says of another."""

from __future__ import annotations

from typing import Any, Self

from pydantic import ConfigDict, Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.backbone import BackboneConfig
from softalign.config.base import Name
from softalign.config.curation import CurationConfig
from softalign.config.encoding import EncodeConfig
from softalign.config.evaluation import EvalConfig
from softalign.config.families import FAMILIES, num_joint_blocks
from softalign.config.objective import AGSMConfig
from softalign.config.paths import leaves
from softalign.config.registration import RegisterConfig
from softalign.config.resolving import resolve
from softalign.config.runtime import Runtime
from softalign.config.training import TrainConfig
from softalign.credentials import holds_secret

PASSWORD_FIX = {
    "runtime.tracking_uri": "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (databases: MLFLOW_TRACKING_URI)"
}
"""Where a password belongs: recipes and overrides are kept in records and by the orchestrator, open to its readers."""


def require_no_password(data: dict[str, Any]) -> None:
    """Refuse a recipe with an address that has a password.

    Raises:
        ValueError: says which field, and where the password belongs.
    """
    for path, value in leaves(data):
        if holds_secret(str(value)):
            fix = PASSWORD_FIX.get(path, "credentials belong in the environment")
            raise ValueError(f"{path} holds a password, and recipes are kept where others read them; {fix}")


class Recipe(Frozen):
    """A whole chain, from sources to a registered adapter; what it leaves open follows preset and family."""

    model_config = ConfigDict(hide_input_in_errors=True)

    name: Name = Field(description="of the recipe, and of the adapter: lower-case letters, digits and dashes")
    curation: CurationConfig = Field(description="where images and captions come from, and which are used")
    backbone: BackboneConfig = Field(BackboneConfig(), description="the frozen model")
    encode: EncodeConfig = Field(EncodeConfig(), description="what of the encodings is stored")
    train: TrainConfig = Field(TrainConfig(), description="the training run of the soft tokens")
    evaluate: EvalConfig = Field(EvalConfig(), description="how base, untrained tokens and adapter are scored")
    register_: RegisterConfig = Field(alias="register", description="the registered model, and the promotion gate")
    runtime: Runtime = Field(Runtime(), description="how the work is run; nothing here changes a result")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        resolved = resolve(data).data
        require_no_password(resolved)
        return resolved

    @model_validator(mode="after")
    def _check_tokens(self) -> Self:
        family, soft = self.backbone.family, self.train.soft_tokens
        if soft.kind != FAMILIES[family].kind:
            raise ValueError(
                f"train.soft_tokens are those of {soft.kind_name}, but the family {family!r} has "
                f"{'a U-Net' if FAMILIES[family].is_unet else 'an MMDiT'}; correct one of the two"
            )
        num_blocks = num_joint_blocks(family, self.backbone.model)
        if soft.num_layers is not None and soft.num_layers > num_blocks:
            raise ValueError(
                f"train.soft_tokens.num_layers is {soft.num_layers}, but {self.backbone.model} (family {family!r}) "
                f"has at most {num_blocks} joint blocks"
            )
        return self

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        family, evaluate, objective = self.backbone.family, self.evaluate, self.train.objective
        multiple = FAMILIES[family].resolution_multiple_px
        if evaluate.resolution_px is not None and evaluate.resolution_px % multiple:
            raise ValueError(
                f"evaluate.resolution_px is {evaluate.resolution_px}, but the family {family!r} needs a multiple of "
                f"{multiple}"
            )
        if evaluate.reference_guidance_scale == evaluate.guidance_scale:
            raise ValueError(
                f"evaluate.reference_guidance_scale has no effect: {evaluate.guidance_scale} is the arms' guidance; "
                "set it to null, or to another"
            )
        has_negative_bank = isinstance(objective, AGSMConfig) and objective.banks == "dual"
        if evaluate.unconditional_bank == "negative" and not has_negative_bank:
            raise ValueError("evaluate.unconditional_bank is negative, but the objective trains no psi-")
        return self
