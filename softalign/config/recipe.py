"""The whole recipe, and what one section says of another: family and preset fill what was left open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from softalign.artifacts import Arm, Frozen, digest_of
from softalign.config.families import FAMILY_DEFAULTS, UNET_FAMILIES, Family, misfit, num_joint_blocks, sample_px
from softalign.config.presets import (
    RESTART_PERIOD_STEPS,
    Defaults,
    Preset,
    TemperatureMode,
    agsm_defaults,
    layers_default,
    schedule_defaults,
    softrepa_defaults,
    unconditional_bank_default,
)
from softalign.errors import ConfigError
from softalign.problems import did_you_mean, problems
from softalign.strict_yaml import read_yaml, yaml_problem

UnconditionalBank = Literal["positive", "negative"]
"""Which tokens the unconditional branch of guidance sees: psi+ (the papers), or psi- (AGSM's released SDXL code)."""
LayersEnd = Literal["first", "last"]
"""Which of an MMDiT's joint blocks have soft tokens: its first ones or its last ones."""
MAX_NAME_CHARS = 100
"""Names go into records, which stay below 4 kB."""
Ratio = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
MAX_COUNT = 10**12
"""No number of steps or samples is above it; far above it, arithmetic in floats would fail."""
Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
"""What a random generator takes."""


class StageConfig(Frozen):
    """Base of the models whose every field is part of the request."""

    @property
    def digest(self) -> str:
        """The sha256 hex digest of all fields."""
        return digest_of([type(self).__name__, self.model_dump(mode="json")])


class ShapesSource(Frozen):
    """Scenes of the embedded world, rendered to PNG files with a captions table, then read like any other source."""

    type: Literal["shapes"] = "shapes"
    num_scenes: Count = 1200
    captions_per_scene: Count = 2
    incomplete_share: Ratio = 0.1
    wrong_share: Ratio = 0.05
    table: Literal["coco", "parquet"] = "coco"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.incomplete_share + self.wrong_share > 1.0:
            raise ValueError("incomplete_share and wrong_share add up to more than 1")
        return self


class CocoSource(Frozen):
    """A COCO captions file (``images``, ``annotations``) and its image folder."""

    type: Literal["coco"] = "coco"
    annotations_uri: str
    images_uri: str


class ParquetSource(Frozen):
    """A Parquet table, one row per caption: an image path relative to ``images_uri``, and the caption."""

    type: Literal["parquet"] = "parquet"
    table_uri: str
    images_uri: str
    image_column: str = "file_name"
    caption_column: str = "caption"


Source = Annotated[ShapesSource | CocoSource | ParquetSource, Field(discriminator="type")]


class FilterConfig(Frozen):
    """What a sample must fulfil; every rejection is counted under the filter's name."""

    min_side_px: Count = 32
    max_aspect_ratio: Annotated[float, Field(ge=1.0)] = 3.0
    min_caption_chars: Count = 3
    max_caption_chars: Count = 1000
    drop_exact_duplicates: bool = True
    max_hash_distance: Annotated[int, Field(ge=-1, le=64)] = Field(
        2, description="perceptual hash bits that may differ between duplicates; -1: no perceptual deduplication"
    )

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_caption_chars > self.max_caption_chars:
            raise ValueError("min_caption_chars is above max_caption_chars: no caption could pass")
        return self


class CurationConfig(StageConfig):
    """Sources -> filters -> shards."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=MAX_NAME_CHARS)]
    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    filters: FilterConfig = FilterConfig()
    val_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    samples_per_shard: Count = 512


def _model_default(fields: dict[str, Any]) -> str:
    """Return the published model of a backbone's family; the family's own error is enough where it is none."""
    return FAMILY_DEFAULTS[fields.get("family", "sd15")].model


class BackboneConfig(StageConfig):
    """The frozen model: ``shapes`` (embedded), a local folder in diffusers layout, or a hub id with its revision.

    The T5 fields belong to the MMDiT families; for U-Nets they must stay unset.
    """

    family: Family = "sd15"
    model: str = Field(default_factory=_model_default, description="unset: the family's published model")
    revision: str | None = None
    vae: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="another VAE of the same latents, by hub id or folder, such as SDXL's fp16-fix"
    )
    resolution_px: Annotated[int, Field(ge=32, multiple_of=8)] = 512
    has_t5: bool | None = Field(None, description="MMDiT: whether the T5 text encoder is used (true)")
    max_sequence_length: Annotated[int, Field(ge=1, le=512)] | None = Field(
        None, description="MMDiT: positions of T5's part of the text (256, as diffusers); zeros without T5"
    )

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if problem := misfit(self.family, self.model):
            raise ValueError(f"{problem}; correct backbone.family or backbone.model")
        return self

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        defaults: dict[str, Any] = {"has_t5": True, "max_sequence_length": 256}
        if self.family in UNET_FAMILIES:
            for field in defaults:
                if getattr(self, field) is not None:
                    raise ValueError(f"{field} has no effect with the family {self.family!r}; remove it")
            return self
        for field, value in defaults.items():
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        if self.resolution_px % 16:
            raise ValueError(
                f"resolution_px is {self.resolution_px}, but the family {self.family!r} needs a multiple of 16 "
                "(its patches are 2 x 2 latents of 8 x 8 pixels)"
            )
        return self


class UNetTokensConfig(Frozen):
    """Soft tokens of a U-Net: one set, seen by the chosen blocks (AGSM and SoftREPA, arXiv 2605.30038, 2503.08250)."""

    placement: Literal["unet"] = "unet"
    num_soft_tokens: Count = 4
    blocks: Annotated[tuple[Literal["down", "mid", "up"], ...], Field(min_length=1)] = ("down", "mid")
    position: Literal["after_bos"] = "after_bos"
    num_timestep_bins: Annotated[int, Field(ge=1, le=1000)] = 100
    init: Literal["bos", "normal"] = Field(
        "bos", description="the empty prompt's BOS state, or N(0, init_std), which a Recipe fills in for sdxl"
    )
    init_std: Positive = 0.02

    @field_validator("blocks")
    @classmethod
    def _in_the_denoisers_order(cls, blocks: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(blocks)) != len(blocks):
            raise ValueError("a block is named twice")
        return tuple(part for part in ("down", "mid", "up") if part in blocks)

    @property
    def num_layers(self) -> None:
        """None: all blocks see the same tokens."""
        return None


class MMDiTTokensConfig(Frozen):
    """Soft tokens of an MMDiT: each of the first or last joint blocks has its own (arXiv 2605.30038, 2503.08250: five).

    The paper says "upper" five; the released code, and what was published with it, has them in the first five.
    """

    placement: Literal["mmdit"] = "mmdit"
    num_soft_tokens: Count = 4
    num_layers: Count = 5
    layers: LayersEnd = Field("first", description="which end of the joint blocks; train.objective.preset fills it")
    position: Literal["append"] = "append"
    num_timestep_bins: Annotated[int, Field(ge=1, le=1000)] = 100
    init: Literal["normal"] = "normal"
    init_std: Positive = 0.02


def _placement(value: Any) -> Any:
    """Return which kind of tokens a value describes; a U-Net's if it does not say."""
    return value.get("placement", "unet") if isinstance(value, dict) else getattr(value, "placement", None)


SoftTokensConfig = Annotated[
    Annotated[UNetTokensConfig, Tag("unet")] | Annotated[MMDiTTokensConfig, Tag("mmdit")], Discriminator(_placement)
]


class EncodeConfig(StageConfig):
    """What is encoded besides images, captions and the empty caption."""

    hard_negatives_per_caption: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="edits of each caption, where it has so many, for train.negatives.hard_share to draw from"
    )


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


class NegativesConfig(Frozen):
    """Which prompts an image is compared with, besides its own caption."""

    num_negatives: Count | None = Field(None, description="per image; unset: as many as the batch has other captions")
    hard_share: Ratio = Field(
        0.0, description="share of them that are edits of the image's own caption (encode.hard_negatives_per_caption)"
    )
    max_similarity: Ratio = Field(
        0.8, description="captions more alike are not each other's negatives; 1: only equal ones (caption_similarity)"
    )

    def num_of(self, batch_size: int) -> int:
        """Return how many negatives each image gets, if there are as many."""
        return batch_size - 1 if self.num_negatives is None else self.num_negatives

    def num_hard_of(self, batch_size: int) -> int:
        """Return how many of them are hard ones."""
        return math.floor(self.num_of(batch_size) * self.hard_share + 0.5)


class OptimizerConfig(Frozen):
    """AdamW on the soft tokens and the timestep table. Fields of another schedule than the chosen one stay unset."""

    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    max_grad_norm: Positive | None = Field(1.0, description="the gradient is scaled down to it; null: never")
    num_warmup_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    schedule: Literal["constant", "cosine", "cosine_restarts"] = "constant"
    min_learning_rate: Annotated[float, Field(ge=0.0)] | None = Field(
        None, description="where a cosine ends (0; with restarts the papers' 1e-5)"
    )
    restart_period_steps: Count | None = Field(
        None, description="cosine_restarts: steps between restarts (1000: the papers' 10 validations, 100 steps apart)"
    )

    @model_validator(mode="after")
    def _fill_schedule(self) -> Self:
        defaults: dict[str, dict[str, Any]] = {
            "constant": {},
            "cosine": {"min_learning_rate": 0.0},
            "cosine_restarts": {"min_learning_rate": 1e-5, "restart_period_steps": RESTART_PERIOD_STEPS},
        }
        own = defaults[self.schedule]
        for field in ("min_learning_rate", "restart_period_steps"):
            if field not in own and getattr(self, field) is not None:
                raise ValueError(f"{field} has no effect with the schedule {self.schedule!r}; remove it")
            if field in own and getattr(self, field) is None:
                object.__setattr__(self, field, own[field])
        if self.min_learning_rate is not None and self.min_learning_rate >= self.learning_rate:
            raise ValueError("min_learning_rate is not below learning_rate, so the schedule has no effect")
        return self


class TrainConfig(StageConfig):
    """One training run of the soft tokens: B images and P prompts, their own captions first, make each step's pairs."""

    soft_tokens: SoftTokensConfig = UNetTokensConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    negatives: NegativesConfig = NegativesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    num_steps: Count = 1000
    batch_size: Annotated[int, Field(ge=2, le=MAX_COUNT)] = Field(4, description="images per step")
    noise_sharing: Literal["paper", "per_image"] = Field(
        "paper", description="paper: one timestep and noise for the whole batch; per_image: each image its own"
    )
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9999
    validate_every_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        100, description="steps between validation rows in metrics.jsonl; 0: never"
    )
    sample_every_steps: Annotated[int, Field(ge=0, le=MAX_COUNT)] = Field(
        0, description="steps between pictures of held-out captions, drawn with fixed noise; 0: never"
    )
    early_stop_patience: Count | None = Field(
        None, description="end after so many validations without a better one; unset: at num_steps alone"
    )
    select: Literal["last", "best"] = Field(
        "last", description="the exported tokens: the last ones, or those of the best validation"
    )
    init_from: str | None = Field(
        None, description="an adapter whose tokens the run starts from, instead of soft_tokens.init; a folder or URI"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        chosen = self.negatives
        if self.objective.name == "score_matching" and (chosen.num_negatives is not None or chosen.hard_share > 0):
            raise ValueError("negatives.num_negatives and hard_share have no effect with the objective score_matching")
        num, num_hard = chosen.num_of(self.batch_size), chosen.num_hard_of(self.batch_size)
        if chosen.hard_share > 0 and num_hard == 0:
            raise ValueError(f"negatives.hard_share has no effect: {chosen.hard_share} of {num} negatives is none")
        if num - num_hard > self.batch_size - 1:
            raise ValueError(
                f"negatives.num_negatives asks for {num - num_hard} other captions of a batch of {self.batch_size}, "
                f"which has {self.batch_size - 1}; ask for fewer, or raise batch_size or negatives.hard_share"
            )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> Self:
        if self.optimizer.num_warmup_steps >= self.num_steps:
            raise ValueError("optimizer.num_warmup_steps is not below num_steps: the schedule would never begin")
        return self

    @model_validator(mode="after")
    def _check_selection(self) -> Self:
        if self.validate_every_steps == 0 and (self.select == "best" or self.early_stop_patience is not None):
            raise ValueError("select=best and early_stop_patience have no effect without validate_every_steps")
        return self


class EvalConfig(StageConfig):
    """GenEval-style evaluation: same prompts, noise and scorer for base, untrained tokens and adapter."""

    suite: Literal["shapes", "geneval"] = "geneval"
    images_per_prompt: Count = 4
    resolution_px: Annotated[int, Field(ge=32, multiple_of=8)] | None = Field(
        None,
        description="side of the images; unset: the family's (512, 768 or 1024), in the embedded world the backbone's",
    )
    num_inference_steps: Count = Field(30, description="a Recipe fills in 28 for sd3 and sd35")
    guidance_scale: Annotated[float, Field(ge=1.0)] = Field(7.0, description="a Recipe fills in 4 for sd3 and sd35")
    reference_guidance_scale: Annotated[float, Field(gt=1.0)] | None = Field(
        None, description="the base is scored at this guidance too: a reference beside the arms, outside of the gate"
    )
    scale: Annotated[float, Field(ge=0.0)] = Field(1.0, description="strength of the soft tokens; 0 is the base model")
    use_ema: bool = False
    unconditional_bank: UnconditionalBank = Field(
        "positive", description="psi+ or psi- on the unconditional branch of guidance; train.objective.preset fills it"
    )
    seed: Seed = 0
    num_bootstrap: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = 0.95

    def side_px(self, backbone: BackboneConfig) -> int:
        """Return the side of a backbone's images: as said, else the family's; in the embedded world the backbone's."""
        if self.resolution_px is not None:
            return self.resolution_px
        is_embedded_world = "shapes" in (self.suite, backbone.model)
        return sample_px(backbone.family, backbone.resolution_px, is_embedded_world=is_embedded_world)

    @property
    def denoiser_calls_per_image(self) -> int:
        """How often the denoiser sees an image on its way: once a step, with guidance twice (with and without text)."""
        return self.num_inference_steps * (1 if self.guidance_scale == 1.0 else 2)

    def of_arm(self, arm: Arm) -> Self:
        """Return how one arm is evaluated: what concerns another arm is left out, so it changes nothing here."""
        guidance_scale = self.guidance_scale
        if arm == "guided_base" and self.reference_guidance_scale is not None:
            guidance_scale = self.reference_guidance_scale
        return self.model_copy(update={"guidance_scale": guidance_scale, "reference_guidance_scale": None})

    @model_validator(mode="after")
    def _check_unconditional_bank(self) -> Self:
        if self.unconditional_bank == "negative" and self.guidance_scale == 1.0:
            raise ValueError("unconditional_bank has no effect at guidance_scale 1, which has no unconditional branch")
        return self


class PromotionPolicy(Frozen):
    """When a candidate becomes champion; differences are paired by prompt and image, in score points (ratios)."""

    min_overall_gain: float = Field(0.0, description="the candidate's overall gain over the base must be at least this")
    is_gain_significant: bool = Field(
        True,
        description="the gain's interval must exclude 0, and with must_beat_untrained that over untrained tokens too",
    )
    max_tag_drop: Annotated[float, Field(ge=0.0)] = Field(0.05, description="no tag may fall by more than this")
    must_beat_untrained: bool = Field(True, description="the overall gain over untrained tokens must be above 0")


class RegisterConfig(StageConfig):
    """Where and under which name the adapter is registered, and the promotion gate."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_CHARS)]
    experiment: str = "softalign"
    policy: PromotionPolicy = PromotionPolicy()


class Runtime(Frozen):
    """How the work is run. Nothing here changes a result, so nothing here is part of a digest."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_processes: Count = Field(1, description="training processes on each machine, one per GPU; 1 inside torchrun")
    num_nodes: Count = Field(1, description="machines that train together; each runs this recipe with its NODE_RANK")
    rendezvous_endpoint: Annotated[str, Field(pattern=r"^[^:/]+:\d+$")] | None = Field(
        None, description="host:port of the machine with NODE_RANK 0; needed with several machines"
    )
    micro_batch_size: Count | Literal["auto"] | None = Field(
        "auto", description="pairs per denoiser call; auto: half the grid, or what fits into free memory; null: all"
    )
    compile: bool = Field(
        False, description="torch.compile for the denoiser's blocks in training; minutes to start, other last bits"
    )
    generation_batch_size: Count = 16
    num_workers: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 2
    checkpoint_every_steps: Count = 50
    keep_checkpoints: Count = Field(2, description="the newest so many; the best validation's is kept besides")
    checkpoint_uri: str | None = Field(
        None, description="where checkpoints are copied to; unset: into the store, unless that is a local folder"
    )
    stall_timeout_s: Positive = Field(600.0, description="a child that writes no line for so long is killed")
    hang_timeout_s: Positive | None = Field(
        None, description="a training step that takes so long ends its process with all stacks (0.9 stall_timeout_s)"
    )
    tracking_uri: str | None = Field(None, description="MLflow; unset: MLFLOW_TRACKING_URI, else sqlite in the store")

    @model_validator(mode="after")
    def _check_nodes(self) -> Self:
        if (self.num_nodes > 1) != (self.rendezvous_endpoint is not None):
            raise ValueError("rendezvous_endpoint belongs to num_nodes above 1, and has no effect without")
        return self

    @model_validator(mode="after")
    def _fill_timeouts(self) -> Self:
        if self.hang_timeout_s is None:
            object.__setattr__(self, "hang_timeout_s", 0.9 * self.stall_timeout_s)
        elif self.hang_timeout_s >= self.stall_timeout_s:
            raise ValueError(
                "hang_timeout_s is not below stall_timeout_s: a child would be killed before it says where"
            )
        return self


def _placement_of(family: Family) -> str:
    return "unet" if family in UNET_FAMILIES else "mmdit"


def _given(section: Any, field: str) -> Any:
    """Return what a mapping or model was given for a field; None if nothing."""
    if isinstance(section, BaseModel):
        return getattr(section, field) if field in section.model_fields_set else None
    return section.get(field) if isinstance(section, dict) else None


class Recipe(Frozen):
    """A whole chain, from sources to a registered adapter."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=MAX_NAME_CHARS)]
    curation: CurationConfig
    backbone: BackboneConfig = BackboneConfig()
    encode: EncodeConfig = EncodeConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvalConfig = EvalConfig()
    register_: RegisterConfig = Field(alias="register")
    runtime: Runtime = Runtime()

    @model_validator(mode="before")
    @classmethod
    def _fill_placement(cls, data: Any) -> Any:
        """Say which kind of tokens is meant where the recipe leaves it to the family."""
        family = _given(_given(data, "backbone"), "family") or "sd15"
        train = _given(data, "train")
        train = {} if train is None else train
        tokens = _given(train, "soft_tokens")
        is_open = tokens is None or (isinstance(tokens, dict) and "placement" not in tokens)
        if not isinstance(data, dict) or not isinstance(family, str) or family not in FAMILY_DEFAULTS or not is_open:
            return data
        filled = {**(tokens or {}), "placement": _placement_of(family)}
        if isinstance(train, TrainConfig):
            train = train.model_dump(exclude_unset=True)
        return {**data, "train": {**train, "soft_tokens": filled}} if isinstance(train, dict) else data

    @model_validator(mode="after")
    def _check_placement(self) -> Self:
        expected = _placement_of(self.backbone.family)
        if self.train.soft_tokens.placement != expected:
            raise ValueError(
                f"train.soft_tokens.placement is {self.train.soft_tokens.placement!r}, but the family "
                f"{self.backbone.family!r} needs {expected!r}"
            )
        num_blocks = num_joint_blocks(self.backbone.family, self.backbone.model)
        num_layers = self.train.soft_tokens.num_layers
        if num_layers is not None and num_layers > num_blocks:
            raise ValueError(
                f"train.soft_tokens.num_layers is {num_layers}, but {self.backbone.model} (family "
                f"{self.backbone.family!r}) has at most {num_blocks} joint blocks"
            )
        return self

    @model_validator(mode="after")
    def _resolve_objective(self) -> Self:
        objective = self.train.objective.for_family(self.backbone.family)
        object.__setattr__(self, "train", self.train.model_copy(update={"objective": objective}))
        return self

    @model_validator(mode="after")
    def _resolve_init(self) -> Self:
        soft, init = self.train.soft_tokens, FAMILY_DEFAULTS[self.backbone.family].init
        if isinstance(soft, UNetTokensConfig) and "init" not in soft.model_fields_set:
            resolved = soft.model_copy(update={"init": init})
            object.__setattr__(self, "train", self.train.model_copy(update={"soft_tokens": resolved}))
        return self

    @model_validator(mode="after")
    def _resolve_sampling(self) -> Self:
        family, evaluate = self.backbone.family, self.evaluate
        defaults = FAMILY_DEFAULTS[family]
        numbers = {"num_inference_steps": defaults.num_inference_steps, "guidance_scale": defaults.guidance_scale}
        update: dict[str, Any] = {
            name: value for name, value in numbers.items() if name not in evaluate.model_fields_set
        }
        if evaluate.resolution_px is None:
            update["resolution_px"] = evaluate.side_px(self.backbone)
        elif family not in UNET_FAMILIES and evaluate.resolution_px % 16:
            raise ValueError(
                f"evaluate.resolution_px is {evaluate.resolution_px}, but the family {family!r} needs a multiple of 16"
            )
        evaluate = evaluate.model_copy(update=update)
        if evaluate.reference_guidance_scale == evaluate.guidance_scale:
            raise ValueError(
                f"evaluate.reference_guidance_scale has no effect: {evaluate.guidance_scale} is the arms' guidance; "
                "set it to null, or to another"
            )
        object.__setattr__(self, "evaluate", evaluate)
        return self

    @model_validator(mode="after")
    def _resolve_layers(self) -> Self:
        preset, soft = self.train.objective.preset, self.train.soft_tokens
        if preset is not None and isinstance(soft, MMDiTTokensConfig) and "layers" not in soft.model_fields_set:
            resolved = soft.model_copy(update={"layers": layers_default(preset)})
            object.__setattr__(self, "train", self.train.model_copy(update={"soft_tokens": resolved}))
        return self

    @model_validator(mode="after")
    def _resolve_schedule(self) -> Self:
        preset, optimizer = self.train.objective.preset, self.train.optimizer
        if preset is not None and "schedule" not in optimizer.model_fields_set:
            given = optimizer.model_dump(exclude_unset=True)
            resolved = OptimizerConfig.model_validate(
                {**schedule_defaults(preset, self.train.validate_every_steps), **given}
            )
            object.__setattr__(self, "train", self.train.model_copy(update={"optimizer": resolved}))
        return self

    @model_validator(mode="after")
    def _resolve_unconditional_bank(self) -> Self:
        has_negative_bank = self.train.objective.name == "agsm" and self.train.objective.banks == "dual"
        if self.evaluate.unconditional_bank == "negative" and not has_negative_bank:
            raise ValueError("evaluate.unconditional_bank is negative, but the objective trains no psi-")
        is_left_open = "unconditional_bank" not in self.evaluate.model_fields_set and self.evaluate.guidance_scale > 1.0
        if is_left_open and has_negative_bank:
            bank = unconditional_bank_default(self.train.objective.preset, self.backbone.family)
            object.__setattr__(self, "evaluate", self.evaluate.model_copy(update={"unconditional_bank": bank}))
        return self

    @model_validator(mode="after")
    def _check_hard_negatives(self) -> Self:
        asked, encoded = self.train.negatives.num_hard_of(self.train.batch_size), self.encode.hard_negatives_per_caption
        if asked > encoded:
            raise ValueError(
                f"train.negatives.hard_share asks for {asked} hard negative(s) an image, but "
                f"encode.hard_negatives_per_caption is {encoded}; set it to {asked} or more"
            )
        return self


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("softalign") / "recipes"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of that name or YAML file, with ``section.field=value`` overrides applied.

    Args:
        name_or_path: a name from ``recipe_names()`` or the path of a YAML file.
        overrides: values are read as YAML, so ``train.num_steps=10`` is a number.

    Raises:
        ConfigError: no such recipe, not YAML, an unknown field, or a value out of range; all of them are listed.
    """
    text, where = _recipe_text(name_or_path)
    try:
        data = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError("The recipe is not valid YAML.", found=yaml_problem(error), where=where) from error
    if not isinstance(data, dict):
        found = {type(None): "nothing", list: "a list: its first character is a dash or a bracket"}
        raise ConfigError(
            "The recipe is not a mapping of sections.",
            expected="sections by name, such as `name: cats` and `curation: ...`",
            found=found.get(type(data), f"a single value: {str(data)[:100]}"),
            where=where,
            fix="begin with a recipe that works, such as those in softalign/recipes, or `softalign init FOLDER`",
        )
    for override in overrides:
        _apply_override(data, override)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        sentences = problems(error, Recipe)
        number = "one problem" if len(sentences) == 1 else f"{len(sentences)} problems"
        given = f" with --set {' --set '.join(overrides)}" if overrides else ""
        raise ConfigError(
            f"The recipe has {number}:\n" + "\n".join(f"    {sentence}" for sentence in sentences),
            where=f"{where}{given}",
            fix="correct these fields; `softalign plan RECIPE` checks a recipe without running it",
        ) from error


def _recipe_text(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        return _file_text(path), str(path)
    if name_or_path not in recipe_names():
        raise ConfigError(
            f"There is no recipe named {name_or_path!r}{_meant_recipe(name_or_path)}",
            expected=f"one of {', '.join(recipe_names())}, or the path of a .yaml file",
            found="a folder of that name" if path.is_dir() else name_or_path,
            fix="name the .yaml file in it; `softalign init FOLDER` writes one" if path.is_dir() else "",
        )
    resource = resources.files("softalign") / "recipes" / f"{name_or_path}.yaml"
    return resource.read_text(encoding="utf-8"), f"recipe {name_or_path}"


def _file_text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError("The recipe is a folder.", expected="a YAML file", where=str(path), fix="name a file in it")
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        raise ConfigError(
            "There is no such recipe file.",
            found=f"the recipe files {', '.join(near[:5])}" if near else "",
            where=str(path),
            fix=f"check the path{did_you_mean(path.name, near)}",
        )
    try:
        return path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ConfigError("The recipe is not UTF-8 text.", found=str(error), where=str(path)) from error
    except OSError as error:
        raise ConfigError(
            "The recipe cannot be read.",
            found=error.strerror or str(error),
            where=str(path),
            fix="check its permission",
        ) from error


def _meant_recipe(name: str) -> str:
    files = [f"{name}{suffix}" for suffix in (".yaml", ".yml") if Path(f"{name}{suffix}").is_file()]
    return f"; did you mean {files[0]}?" if files else did_you_mean(name, recipe_names()) or "."


def _apply_override(data: dict[str, Any], override: str) -> None:
    dotted, separator, value = override.partition("=")
    *sections, field = dotted.strip().split(".")
    if not separator or not field or not all(sections):
        raise ConfigError(
            "An override is malformed.",
            expected="section.field=value",
            found=override,
            fix="such as --set train.num_steps=100",
        )
    target = data
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(
                "An override reaches into a value.",
                expected=f"a section named {section}",
                found="a list" if isinstance(target, list) else "a single value",
                where=f"--set {override}",
                fix=f"set it whole: --set '{dotted.partition(section)[0]}{section}=...'",
            )
    try:
        target[field] = read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            "An override's value is not valid YAML.", found=yaml_problem(error), where=f"--set {override}"
        ) from error
