"""The records passed between stages: frozen, small, content-addressed; together they are the lineage.

A record's ``digest`` is the sha256 of its canonical JSON without ``uri`` (a place is not content), and ``parents``
name the records it was made from. ``stage_key`` is the digest of what was asked for: stage, configuration, parents and
library version; it is known before the work is done, which is how a rerun finds out that there is nothing to do.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from softalign.errors import CompatibilityError, IntegrityError
from softalign.problems import problems
from softalign.version import __version__

SCHEMA_VERSION: Final = 1
"""Of all records: a digest is one of all fields, so one field more is another version."""
_RERUN = "remove this prefix and rerun the stage (request.json there names the softalign that wrote it)"
MAX_RECORD_BYTES = 4096
"""Records travel through orchestration databases; bulk belongs into files beside them."""

Stage = Literal["curate", "encode", "train", "evaluate", "compare", "register"]
Family = Literal["sd15", "sd21", "sdxl", "sd3", "sd35"]
"""Of base models; what is known of each: ``softalign.config.families``."""
Arm = Literal["base", "untrained", "adapter", "guided_base"]
"""Whose images are scored: three arms are compared; the base with guidance may stand beside them, as a reference."""
BASE_ARMS: tuple[Arm, ...] = ("base", "guided_base")
"""The arms that take no adapter."""


def canonical_json(value: Any) -> bytes:
    """Return JSON with sorted keys and no white space, the form that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def digest_of(value: Any) -> str:
    """Return the sha256 hex digest of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def require_format(stored: Any, known: int, what: str, *, where: str, fix: str) -> None:
    """Refuse stored JSON whose ``schema_version`` is not the one that is read and written here.

    Args:
        stored: what was parsed; without a version it passes, as its reader says what else is wrong with it.
        known: the version that is read.
        what: what it is, as the beginning of a sentence.
        where: its place.
        fix: what can be done instead of installing another softalign.

    Raises:
        CompatibilityError: it is of an older or newer format; says which, and which softalign wrote it, if it does.
    """
    version = stored.get("schema_version", known) if isinstance(stored, dict) else known
    if version == known or not isinstance(version, int):
        return
    age, other = ("a newer", "it, or a later one") if version > known else ("an older", "it")
    writer = stored.get("library_version")
    raise CompatibilityError(
        f"{what} is of {age} format than this library reads.",
        expected=f"schema_version {known}, which softalign {__version__} writes",
        found=f"schema_version {version}{f', written by softalign {writer}' if writer else ''}",
        where=where,
        fix=f"install the softalign that wrote {other}; or {fix}",
    )


class Frozen(BaseModel):
    """Base of records and configurations: immutable, and a field nobody declared is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class FileEntry(Frozen):
    """One file of a published prefix, as listed in its ``files.json``."""

    path: str
    size_bytes: int
    sha256: str


class ReasonCount(Frozen):
    """How many images, or captions of kept ones, were rejected for one reason."""

    reason: str
    count: int


class TagScore(Frozen):
    """GenEval score of one tag: the share of correct images, with a bootstrap interval over prompts (ratios 0..1)."""

    tag: str
    score: float
    ci_low: float
    ci_high: float
    num_images: int
    num_correct: int


class TagDifference(Frozen):
    """Paired difference (candidate - reference) of a tag or ``overall``, with a bootstrap interval over prompts."""

    tag: str
    difference: float
    ci_low: float
    ci_high: float


class Record(Frozen):
    """What every stage hands to the next.

    Attributes:
        stage_key: digest of what was asked for.
        parents: digests of the records this one was made from.
        files_digest: sha256 of the canonical JSON of the published prefix's file list.
        uri: where the prefix lies; not part of the digest.
    """

    stage: ClassVar[Stage]
    filename: ClassVar[str]

    schema_version: Literal[1] = SCHEMA_VERSION
    stage_key: str
    parents: tuple[str, ...] = ()
    files_digest: str = ""
    uri: str = ""

    @property
    def digest(self) -> str:
        """The sha256 hex digest of the content."""
        return digest_of(self.model_dump(mode="json", exclude={"uri"}))

    def to_json(self) -> bytes:
        """Return the stored form, the digest included.

        Raises:
            IntegrityError: the record is larger than MAX_RECORD_BYTES.
        """
        payload = {"digest": self.digest, **self.model_dump(mode="json", exclude={"uri"})}
        data = json.dumps(payload, indent=1).encode() + b"\n"
        if len(data) > MAX_RECORD_BYTES:
            raise IntegrityError(
                f"The {type(self).__name__} record is too large.",
                expected=f"at most {MAX_RECORD_BYTES} bytes",
                found=f"{len(data)} bytes",
                fix="keep lists in a file of the stage and its digest in the record",
            )
        return data

    @classmethod
    def from_json(cls, data: bytes, uri: str) -> Self:
        """Read a stored record and check its digest.

        Raises:
            IntegrityError: not a record of this type, or its content is not what its digest says.
            CompatibilityError: it is of another format version.
        """
        where = f"{uri}/{cls.filename}"
        try:
            payload = json.loads(data)
            require_format(payload, SCHEMA_VERSION, f"This {cls.__name__}", where=where, fix=_RERUN)
            stored_digest = payload.pop("digest")
            record = cls.model_validate({**payload, "uri": uri})
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise IntegrityError(
                f"{cls.filename} is not a {cls.__name__} of schema version {SCHEMA_VERSION}.",
                found=problems(error, cls)[0] if isinstance(error, ValidationError) else str(error),
                where=where,
                fix="it was written by another version or damaged; remove this prefix and rerun the stage",
            ) from error
        if record.digest != stored_digest:
            raise IntegrityError(
                f"{cls.filename} was changed after it was written.",
                expected=f"digest {stored_digest}",
                found=f"digest {record.digest}",
                where=where,
                fix="restore the file, or remove this prefix and rerun the stage",
            )
        return record


class DatasetManifest(Record):
    """Curated WebDataset shards: ``shard-000000.tar`` with ``shard-000000.parquet`` beside each."""

    stage: ClassVar[Stage] = "curate"
    filename: ClassVar[str] = "manifest.json"

    name: str
    num_samples: int
    num_captions: int
    num_val_samples: int
    num_shards: int
    total_bytes: int
    num_seen: int
    rejected: tuple[ReasonCount, ...] = ()


class EncodedManifest(Record):
    """Latent shards (keyed by image digest) and text shards (keyed by caption digest) of one backbone."""

    stage: ClassVar[Stage] = "encode"
    filename: ClassVar[str] = "manifest.json"

    name: str
    backbone_digest: str
    vae_digest: str
    text_encoder_digest: str
    latent_shape: tuple[int, int, int]
    text_shape: tuple[int, int]
    pooled_width: int
    hard_negatives_per_caption: int
    num_samples: int
    num_val_samples: int
    num_latents: int
    num_texts: int
    total_bytes: int


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


class EvalReport(Record):
    """Scores of one arm: images in GenEval layout, ``results.jsonl``.

    Attributes:
        adapter_digest: of the tokens it was drawn with: empty for the base, for the untrained arm the digest of the
            step-0 tokens (which adapters may share), else the trained adapter's. ``parents`` holds the same.
    """

    stage: ClassVar[Stage] = "evaluate"
    filename: ClassVar[str] = "report.json"

    arm: Arm
    suite: str
    adapter_digest: str
    overall_score: float
    overall_ci_low: float
    overall_ci_high: float
    tags: tuple[TagScore, ...]
    num_images: int
    num_prompts: int
    num_prompts_any_correct: int
    guidance_scale: float


class GuidedBase(Frozen):
    """What the base scores with guidance, on the arms' prompts and noise: a reference that no gate looks at."""

    guidance_scale: float
    denoiser_calls_per_image: int
    overall_score: float
    overall_ci_low: float
    overall_ci_high: float


class ComparisonReport(Record):
    """The arms of one evaluation side by side, paired by prompt and image: ``comparison.json``, ``report.html``.

    Attributes:
        guidance_scale: of all three arms; 1 is without guidance. None in records of earlier versions.
        denoiser_calls_per_image: how often the denoiser sees an image of the arms on its way; None likewise.
        guided_base: where ``evaluate.reference_guidance_scale`` asked for it.
    """

    stage: ClassVar[Stage] = "compare"
    filename: ClassVar[str] = "comparison.json"

    suite: str
    overall_base: float
    overall_untrained: float
    overall_adapter: float
    adapter_vs_base: tuple[TagDifference, ...]
    adapter_vs_untrained: tuple[TagDifference, ...]
    num_images_per_arm: int
    guidance_scale: float | None = None
    denoiser_calls_per_image: int | None = None
    guided_base: GuidedBase | None = None

    def guidance_text(self) -> str:
        """Return in sentences with which guidance the arms were compared, what an image costs, and the reference."""
        if self.guidance_scale is None or self.denoiser_calls_per_image is None:
            return "The arms' guidance was not recorded."
        how = "without guidance" if self.guidance_scale == 1.0 else f"at guidance {self.guidance_scale:g}"
        text = f"The arms were compared {how}: {self.denoiser_calls_per_image} denoiser calls an image."
        if self.guided_base is None:
            return text
        base = self.guided_base
        return (
            f"{text} For reference, the base at guidance {base.guidance_scale:g}: "
            f"{base.overall_score:.3f} ({base.overall_ci_low:.3f} to {base.overall_ci_high:.3f}), "
            f"{base.denoiser_calls_per_image} calls an image."
        )


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
