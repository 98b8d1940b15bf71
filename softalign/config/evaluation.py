"""How arms are sampled and scored, and when an adapter is promoted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from softalign.artifacts import BASE_ARMS, Arm, Frozen
from softalign.config.backbone import BackboneConfig
from softalign.config.base import MAX_NAME_CHARS, Count, Seed, StageConfig
from softalign.config.families import is_embedded, own_side_px
from softalign.config.metrics import MetricConfig

UnconditionalBank = Literal["positive", "negative"]
"""Which tokens the unconditional branch of guidance sees: psi+ (the papers), or psi- (AGSM's released SDXL code)."""
CHAMPION_PATTERN = r"^(auto|none|[A-Za-z0-9][A-Za-z0-9._-]*/[0-9]+#[0-9a-f]{64})$"
LEDGER_SUFFIX = ".history"
"""The history of the model NAME is the registered model NAME.history."""
GUARD_PATTERN = (
    r"^(overall_(base|untrained|adapter|champion)|num_images_per_arm|denoiser_calls_per_image|"
    r"adapter_vs_(base|untrained|champion)/\w[\w .:-]*(/ci_low|/ci_high)?)$"
)
LATER_FIELDS = ("guidance_sweep", "metrics")
"""Left out of requests where they are empty: keys are as they were before there were any."""
OF_TOKENS = ("scale", "use_ema", "unconditional_bank")
"""Fields that say how soft tokens act."""


class DetectorConfig(StageConfig):
    """The detector of photographs: two models, each a local folder in transformers' layout or a hub id.

    Scores are called ``geneval`` with the official weights alone (`softalign geneval convert-detector`), else
    ``geneval-hf``.
    """

    segmenter: Annotated[str, Field(min_length=1)] = Field(
        "facebook/mask2former-swin-small-coco-instance",
        description="a Mask2Former of COCO's 80 objects: a folder, such as the converted official weights, or a hub id",
    )
    segmenter_revision: str | None = Field(None, description="revision of a hub segmenter; null: the newest")
    color_classifier: Annotated[str, Field(min_length=1)] = Field(
        "openai/clip-vit-large-patch14", description="the CLIP that names the objects' colours: a folder or a hub id"
    )
    color_classifier_revision: str | None = Field(
        None, description="revision of a hub colour classifier; null: the newest"
    )


class EvalConfig(StageConfig):
    """GenEval-style evaluation: same prompts, noise and scorer for base, untrained tokens and adapter."""

    suite: Literal["shapes", "geneval"] = Field(
        "geneval", description="prompts and detector: GenEval's official 553, or the embedded world's own"
    )
    detector: DetectorConfig = Field(
        DetectorConfig(), description="what finds objects and names colours in images of photographs' suites"
    )
    prompts_uri: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="other prompts for the suite's detector: JSON lines as `softalign geneval prompts` writes them, "
        "with tags of their own; their content decides what is made again. Left open: the suite's own",
    )
    images_per_prompt: Count = Field(4, description="images of each prompt and arm")
    resolution_px: Annotated[int, Field(ge=32, multiple_of=8)] | None = Field(
        None,
        description="side of the images in pixels, a multiple of 16 for MMDiTs; left open: the family's, in the "
        "embedded world backbone.resolution_px",
    )
    num_inference_steps: Count = Field(30, description="steps of the sampler")
    guidance_scale: Annotated[float, Field(ge=1.0)] = Field(
        7.0, description="classifier-free guidance of the arms; 1: without, which halves the denoiser's calls"
    )
    reference_guidance_scale: Annotated[float, Field(gt=1.0)] | None = Field(
        None,
        description="the base is scored at this guidance too: a reference beside the arms, outside of the gate; null: "
        "it is not",
    )
    guidance_sweep: tuple[Annotated[float, Field(ge=1.0)], ...] = Field(
        (),
        description="guidance at which every compared arm is scored too, beside guidance_scale; outside of the gate: "
        "`fronts.json` says what each arm reaches at its best guidance",
    )
    metrics: tuple[MetricConfig, ...] = Field(
        (),
        description="other scores of every image, each by a model that is named",
    )
    scale: Annotated[float, Field(ge=0.0)] = Field(1.0, description="strength of the soft tokens; 0 is the base model")
    use_ema: bool = Field(False, description="the averaged tokens are evaluated instead of the exported ones")
    unconditional_bank: UnconditionalBank = Field(
        "positive", description="which tokens the unconditional branch of guidance sees: psi+ or psi-"
    )
    champion: Annotated[str, Field(pattern=CHAMPION_PATTERN)] = Field(
        "auto",
        description="whom the adapter is compared with beside base and untrained tokens: auto, the champion of this "
        "base model in the registry when the run begins; none; or NAME/VERSION#sha256 of its weights",
    )
    seed: Seed = Field(0, description="of the noise, which all arms share, and of the intervals")
    num_bootstrap: Annotated[int, Field(ge=100)] = Field(2000, description="resamplings of the prompts per interval")
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)] = Field(0.95, description="of the intervals, a ratio")

    def side_px(self, backbone: BackboneConfig) -> int:
        """Return the side of a backbone's images: as said, else the family's; in the embedded world the backbone's."""
        if self.resolution_px is not None:
            return self.resolution_px
        return own_side_px(self.suite, backbone.family, backbone.model, backbone.resolution_px)

    @property
    def is_embedded(self) -> bool:
        """Whether the suite is the embedded world's."""
        return is_embedded(self.suite)

    @property
    def denoiser_calls_per_image(self) -> int:
        """How often the denoiser sees an image on its way: once a step, with guidance twice (with and without text)."""
        return self.num_inference_steps * (1 if self.guidance_scale == 1.0 else 2)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms in the order they are evaluated: those that are compared, then the reference, if there is one."""
        compared: tuple[Arm, ...] = ("base", "untrained", "adapter")
        if self.pinned_champion:
            compared = (*compared, "champion")
        return compared if self.reference_guidance_scale is None else (*compared, "guided_base")

    @property
    def pinned_champion(self) -> str:
        """The champion that is drawn, ``NAME/VERSION#sha256``; empty: none, or it is not looked up yet."""
        return "" if self.champion in {"auto", "none"} else self.champion

    @property
    def swept_arms(self) -> tuple[tuple[Arm, float], ...]:
        """The arms of the sweep, with their guidance: those that are compared, at every value but their own."""
        arms = [arm for arm in self.arms if arm != "guided_base"]
        return tuple((arm, value) for value in self.guidance_sweep if value != self.guidance_scale for arm in arms)

    def at_guidance(self, guidance_scale: float) -> Self:
        """Return how the arms of a sweep are evaluated at one of its values: as a recipe with that guidance does."""
        update = {
            "guidance_scale": guidance_scale,
            "reference_guidance_scale": None,
            "guidance_sweep": (),
            "metrics": (),
        }
        return self.model_copy(update=update)

    def asked(self) -> dict[str, Any]:
        """Return what a stage is asked for: without champion and prompts, which are known by their digests.

        The embedded world has a detector of its own, so its requests are without one.
        """
        unset = {name for name in LATER_FIELDS if not getattr(self, name)}
        own = {"detector"} if self.is_embedded else set()
        return self.model_dump(mode="json", exclude={"champion", "prompts_uri"} | unset | own)

    def of_arm(self, arm: Arm) -> Self:
        """Return how one arm is evaluated: what concerns another arm is left out, so it changes nothing here."""
        guidance_scale = self.guidance_scale
        metrics = self.metrics
        if arm == "guided_base" and self.reference_guidance_scale is not None:
            guidance_scale, metrics = self.reference_guidance_scale, ()
        update: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "reference_guidance_scale": None,
            "guidance_sweep": (),
            "metrics": metrics,
        }
        if arm != "champion":
            update["champion"] = "none"
        if arm in BASE_ARMS:  # without tokens, their strength, average and bank change nothing
            update |= {name: type(self).model_fields[name].default for name in OF_TOKENS}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _check_guidance_sweep(self) -> Self:
        if len(set(self.guidance_sweep)) < len(self.guidance_sweep):
            raise ValueError("guidance_sweep names a guidance twice")
        if self.guidance_sweep and not self.swept_arms:
            raise ValueError("guidance_sweep has no effect: it names the arms' own guidance_scale alone")
        if self.unconditional_bank == "negative" and 1.0 in self.guidance_sweep:
            raise ValueError("unconditional_bank has no effect at guidance 1 of guidance_sweep")
        return self

    @model_validator(mode="after")
    def _check_metrics(self) -> Self:
        if len({metric.name for metric in self.metrics}) < len(self.metrics):
            raise ValueError("metrics names a metric twice")
        return self

    @model_validator(mode="after")
    def _check_detector(self) -> Self:
        if self.is_embedded and self.detector != DetectorConfig():
            raise ValueError("detector has no effect with the suite shapes, which has its own")
        return self

    @model_validator(mode="after")
    def _check_unconditional_bank(self) -> Self:
        if self.unconditional_bank == "negative" and self.guidance_scale == 1.0:
            raise ValueError("unconditional_bank has no effect at guidance_scale 1, which has no unconditional branch")
        return self


class Guard(Frozen):
    """A bound that a number of the comparison must keep, whatever else the gate finds."""

    metric: Annotated[str, Field(pattern=GUARD_PATTERN)] = Field(
        description="a number of the comparison, such as overall_adapter or adapter_vs_base/counting/ci_low"
    )
    at_least: float | None = Field(None, description="the lowest value that passes; differences are ratios")
    at_most: float | None = Field(None, description="the highest value that passes")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("a guard has one bound: at_least or at_most")
        return self


class PromotionPolicy(Frozen):
    """When a candidate becomes champion; differences are paired by prompt and image, in score points (ratios)."""

    min_overall_gain: float = Field(
        0.0, description="the candidate's overall gain over the base must be at least this many score points (ratio)"
    )
    requires_significant_gain: bool = Field(
        True,
        description="the gain's interval must exclude 0, and with must_beat_untrained that over untrained tokens too",
    )
    max_tag_drop: Annotated[float, Field(ge=0.0)] = Field(
        0.05, description="no tag may fall by more score points (ratio)"
    )
    must_beat_untrained: bool = Field(True, description="the overall gain over untrained tokens must be above 0")
    max_drop_below_champion: Annotated[float, Field(ge=0.0)] = Field(
        0.02,
        description="in pairs with the champion, the interval of the overall difference must not reach further below 0 "
        "(ratio)",
    )
    max_tag_drop_below_champion: Annotated[float, Field(ge=0.0)] = Field(
        0.05, description="in pairs with the champion, no tag may fall by more score points (ratio)"
    )
    min_images: Annotated[int, Field(ge=0)] = Field(0, description="fewer images an arm decide nothing; 0: any number")
    guards: tuple[Guard, ...] = Field((), description="bounds that numbers of the comparison must keep")


class RegisterConfig(StageConfig):
    """Where and under which name the adapter is registered, and the promotion gate."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_NAME_CHARS)] = Field(
        description="of the registered model"
    )
    experiment: str = Field("softalign", description="MLflow's experiment that the run is recorded in")
    policy: PromotionPolicy = Field(PromotionPolicy(), description="when a candidate becomes champion")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name.endswith(LEDGER_SUFFIX):
            raise ValueError(f"a name that ends in {LEDGER_SUFFIX} is another model's history")
        return name
