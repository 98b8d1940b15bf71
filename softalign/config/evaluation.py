"""How arms are sampled and scored, and when an adapter is promoted."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from softalign.artifacts import BASE_ARMS, Arm
from softalign.config.backbone import BackboneConfig
from softalign.config.base import MAX_SCALE, Count, Seed, StageConfig
from softalign.config.families import is_embedded, own_side_px
from softalign.config.metrics import DistanceConfig, MetricConfig

UnconditionalBank = Literal["positive", "negative"]
"""Which tokens the unconditional branch of guidance sees: psi+ (the papers), or psi- (AGSM's released SDXL code)."""
CHAMPION_PATTERN = r"^(auto|none|[A-Za-z0-9][A-Za-z0-9._-]*/[0-9]+#[0-9a-f]{64})$"
LATER_FIELDS = ("distance", "divide_by_guidance", "guidance_sweep", "metrics", "prompts_per_tag")
"""Left out of requests where they are left open: keys are as they were before there were any."""
NEVER, WHEN_DECIDED, AFTER = "never", "when_decided", "after "
STOP_PATTERN = rf"^({NEVER}|{WHEN_DECIDED}|{AFTER}[1-9][0-9]*)$"
MAX_ROUNDS = 100
"""Of an evaluation that stops early: more looks have boundaries that no evaluation reaches."""
OF_TOKENS = ("scale", "use_ema", "unconditional_bank", "divide_by_guidance")
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
    prompts_per_tag: Count | None = Field(
        None,
        description="a trial: the suite is cut to the first prompts of each tag, so many of each; its scores are not "
        "the suite's, so reports call it by a digest of these prompts; null: all",
    )
    images_per_prompt: Count = Field(4, description="images of each prompt and arm")
    stop: Annotated[str, Field(pattern=STOP_PATTERN)] = Field(
        NEVER,
        description="never: all images are drawn; when_decided: in rounds, one image of every prompt and arm each, "
        "until the promotion gate's answer is certain, with its error rate kept by wider intervals; after N: what a "
        "run that was decided after N rounds is fixed to",
    )
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
    distance: DistanceConfig | None = Field(
        None, description="how far each arm's images are from a reference: FID and KID; null: it is not measured"
    )
    scale: Annotated[float, Field(ge=0.0, le=MAX_SCALE)] = Field(
        1.0, description="strength of the soft tokens; 0 is the base model"
    )
    use_ema: bool = Field(False, description="the averaged tokens are evaluated instead of the exported ones")
    unconditional_bank: UnconditionalBank = Field(
        "positive", description="which tokens the unconditional branch of guidance sees: psi+ or psi-"
    )
    divide_by_guidance: bool = Field(
        False,
        description="the conditional branch of guidance sees the tokens with strength scale / guidance_scale, so that "
        "guidance does not multiply what they change; the unconditional one with scale",
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
    def is_in_rounds(self) -> bool:
        """Whether images are drawn in rounds, one image of every prompt each."""
        return self.stop != NEVER

    @property
    def is_undecided(self) -> bool:
        """Whether it is not known yet after how many rounds drawing stops."""
        return self.stop == WHEN_DECIDED

    @property
    def num_rounds(self) -> int:
        """How many images of each prompt are drawn; at most, where that is not decided yet."""
        return int(self.stop.removeprefix(AFTER)) if self.stop.startswith(AFTER) else self.images_per_prompt

    def after_rounds(self, number: int) -> Self:
        """Return the evaluation that stops after so many rounds."""
        return self.model_copy(update={"stop": f"{AFTER}{number}"})

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
        unset |= set() if self.is_in_rounds else {"stop"}
        own = {"detector"} if self.is_embedded else set()
        return self.model_dump(mode="json", exclude={"champion", "prompts_uri"} | unset | own)

    def of_arm(self, arm: Arm) -> Self:
        """Return how one arm is evaluated: what concerns another arm is left out, so it changes nothing here."""
        guidance_scale = self.guidance_scale
        metrics, distance = self.metrics, self.distance
        if arm == "guided_base" and self.reference_guidance_scale is not None:
            guidance_scale, metrics, distance = self.reference_guidance_scale, (), None
        update: dict[str, Any] = {
            "guidance_scale": guidance_scale,
            "reference_guidance_scale": None,
            "guidance_sweep": (),
            "metrics": metrics,
            "distance": distance,
            "images_per_prompt": self.num_rounds,  # after some rounds it is as where so many are asked for
            "stop": NEVER,
        }
        if arm != "champion":
            update["champion"] = "none"
        if guidance_scale == 1.0:
            update["divide_by_guidance"] = False  # by 1: as where it is not asked for
        if arm in BASE_ARMS:  # without tokens, their strength, average and bank change nothing
            update |= {name: type(self).model_fields[name].default for name in OF_TOKENS}
        return self.model_copy(update=update)

    @model_validator(mode="after")
    def _check_stop(self) -> Self:
        if self.is_in_rounds and not 1 < self.images_per_prompt <= MAX_ROUNDS:
            raise ValueError(f"stop: {self.stop} takes images_per_prompt from 2 to {MAX_ROUNDS}, as many rounds")
        if self.num_rounds > self.images_per_prompt:
            raise ValueError(f"stop: {self.stop} names more rounds than images_per_prompt {self.images_per_prompt}")
        return self

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
        if self.divide_by_guidance and {self.guidance_scale, *self.guidance_sweep} == {1.0}:
            raise ValueError("divide_by_guidance has no effect at guidance_scale 1 alone")
        return self
