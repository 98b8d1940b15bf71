"""The loss on the pair grid."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import Positive
from softalign.config.families import Family
from softalign.config.presets import Defaults, Preset, TemperatureMode, agsm_defaults, softrepa_defaults


class ObjectiveConfig(Frozen):
    """The loss on the pair grid. Fields of another objective than the chosen one must stay unset.

    ``preset`` says whose numbers unset fields get where the AGSM paper and its released code differ. A Recipe resolves
    them, and those that depend on the family, when it is read: fields of this class, ``train.soft_tokens.layers``,
    ``train.optimizer.schedule`` and ``evaluate.unconditional_bank``. Not offered are two accidents of the released
    code: an average (EMA) that starts from its own random draw (ours is a copy of the live tokens, always), and a
    learning rate that stands still between validations. One timestep and one noise for all pairs
    (``noise_sharing: paper``) is both, and the default.
    """

    name: Literal["agsm", "softrepa", "score_matching"] = "agsm"
    preset: Preset | None = Field(None, description="agsm: whose numbers unset fields get; unset: this library's")
    weights: Literal["plackett_luce", "bradley_terry"] | None = None
    banks: Literal["dual", "shared"] | None = None
    gamma_positive: Annotated[float, Field(ge=0.0)] | None = None
    gamma_negative: Annotated[float, Field(ge=0.0)] | None = Field(None, description="1, or 0.1 by family and preset")
    temperature_mode: TemperatureMode | None = Field(
        None, description="agsm: fixed (temperature), or calibrated to the spread of each step's rewards"
    )
    temperature: Positive | None = Field(None, description="tau of agsm (0.1; of the paper 1) or of softrepa (0.07)")
    temperature_factor: Positive | None = Field(None, description="calibrated: tau in units of the spread (1)")
    reward_reduction: Literal["mean", "sum"] | None = Field(
        None, description="over (C, H, W): mean as the code, sum as the paper"
    )
    logit_scale: Positive | None = Field(None, description="softrepa: the factor before exp (4)")
    denoising_weight: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="softrepa: dweight (10; 0 on SD3)"
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _fill_defaults(self) -> Self:
        own = self._defaults(None)
        for field in type(self).model_fields:
            if field in ("name", "preset"):
                continue
            if field in own:
                if getattr(self, field) is None:
                    object.__setattr__(self, field, own[field])
            elif getattr(self, field) is not None:
                raise ValueError(f"{field} has no effect with {self._kind}; remove it")
        if self.preset is not None and self.name != "agsm":
            raise ValueError(f"preset has no effect with {self._kind}; remove it")
        return self

    def for_family(self, family: Family) -> Self:
        """Return the objective with the fields that were left unset as they are for a family of backbones."""
        given = self.model_dump(exclude_unset=True)
        return type(self).model_validate({**self._defaults(family), **given})

    def _defaults(self, family: Family | None) -> Defaults:
        if self.name == "agsm":
            return agsm_defaults(self.preset, family, self.temperature_mode or "fixed")
        return softrepa_defaults(family) if self.name == "softrepa" else {}

    @property
    def _kind(self) -> str:
        suffix = f" and a {self.temperature_mode} temperature" if self.temperature_mode else ""
        return f"the objective {self.name!r}{suffix}"
