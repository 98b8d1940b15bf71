"""An adapter diagnosed into a folder: what ``softalign diagnose`` does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from softalign.adapters.files import AdapterConfig, read_adapter_config
from softalign.artifacts import EncodedManifest
from softalign.backbones.frozen_pipeline import backbone_dtype, resolve_device
from softalign.backbones.identity import component_digest, text_encoder_digest
from softalign.config.backbone import BackboneConfig
from softalign.config.runtime import Runtime
from softalign.config.training import EDIT_KINDS
from softalign.data.encoding.reader import EncodedReader
from softalign.diagnosis.findings import findings_of
from softalign.diagnosis.images import ProbeImage, held_out_images, rendered_images
from softalign.diagnosis.measuring import LEVELS, Measured, measure, num_parts
from softalign.diagnosis.page import page_html
from softalign.diagnosis.records import DIAGNOSIS_FILENAME, PAGE_FILENAME, Diagnosis
from softalign.diagnosis.subject import LoadedSubject, Subject, load_subject
from softalign.errors import ConfigError
from softalign.processes.reporter import Reporter
from softalign.store.files import require_folder_place, write_atomically
from softalign.store.store import Store
from softalign.training.frozen_model import require_encoders
from softalign.version import __version__

MIN_IMAGES = 2
"""Fewer have no interval, and no other caption to be compared with."""


@dataclass(frozen=True)
class DiagnosisRequest:
    """What is diagnosed, and how.

    Attributes:
        name: of the adapter, as people named it.
        folder: its files.
        base: its base model.
        runtime: the device.
        out: the folder that page and JSON are written to.
        num_images: how many images are looked at, at most.
        seed: of images and noise.
        rows_per_call: pairs of one denoiser call.
        is_forced: accept a base model that the adapter does not know.
        encoded: whose held-out images are looked at; of no use for the embedded world, whose scenes are rendered.
    """

    name: str
    folder: Path
    base: BackboneConfig
    runtime: Runtime
    out: Path
    num_images: int
    seed: int
    rows_per_call: int
    is_forced: bool = False
    encoded: EncodedManifest | None = None


def diagnose(request: DiagnosisRequest, store: Store) -> Diagnosis:
    """Measure, write ``diagnosis.html`` and ``diagnosis.json``, and return what was found.

    Args:
        request: what is diagnosed.
        store: where encoded images lie.

    Raises:
        ConfigError: no images are named for a model of photographs, or there is no such device.
        CompatibilityError: the base model is not the adapter's, its attention cannot be watched, or another model's
            encoders made the images' latents.
        DataError: the held-out split has fewer than two images.
        IntegrityError, MissingInputError: a file is damaged or not there.
    """
    require_folder_place(request.out)
    config = read_adapter_config(request.folder)
    if request.encoded is None and not request.base.is_embedded:
        raise ConfigError(
            "There are no images to diagnose this adapter on.",
            expected="a recipe whose encode stage ran, with this adapter's base model",
            found="none",
            fix="name it with --data RECIPE; its held-out images are looked at",
        )
    dtype = backbone_dtype(device := resolve_device(request.runtime))
    loaded = load_subject(request.folder, request.base, device=device, dtype=dtype, is_forced=request.is_forced)
    images, source = _images(request, loaded, store)
    subject = loaded.subject
    with Reporter("diagnose", "parts", num_parts(len(images), len(LEVELS))) as parts:
        parts.begin()
        measured = measure(
            subject,
            images,
            seed=request.seed,
            rows_per_call=request.rows_per_call,
            on_part=lambda: parts.reach(parts.done + 1),
        )
    subject.denoiser.close()
    diagnosis = _record(request, config, measured, subject, source, len(images), device, dtype)
    write(diagnosis, request.out)
    return diagnosis


def write(diagnosis: Diagnosis, folder: Path) -> None:
    """Write a diagnosis as page and JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / PAGE_FILENAME, page_html(diagnosis).encode())
    text = json.dumps(diagnosis.model_dump(mode="json"), indent=1)
    write_atomically(folder / DIAGNOSIS_FILENAME, text.encode() + b"\n")


def _images(request: DiagnosisRequest, loaded: LoadedSubject, store: Store) -> tuple[tuple[ProbeImage, ...], str]:
    if request.base.is_embedded:
        found = rendered_images(request.num_images, request.seed, loaded.encode_images)
        return found, "scenes of the embedded world, rendered anew, with captions that are true of them"
    assert request.encoded is not None  # noqa: S101  diagnose refused it
    vae_digest = component_digest(loaded.encoders.pipeline.vae)
    texts_digest = text_encoder_digest(loaded.encoders)
    require_encoders(request.encoded, vae_digest=vae_digest, text_encoder_digest=texts_digest)
    reader = EncodedReader(request.encoded, store, split="val", batch_size=MIN_IMAGES, seed=0, online=loaded.texts)
    images = held_out_images(reader, request.num_images)
    return images, f"held out of the dataset {request.encoded.name}, edits false as far as words can tell"


def _record(
    request: DiagnosisRequest,
    config: AdapterConfig,
    measured: Measured,
    subject: Subject,
    source: str,
    num_images: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Diagnosis:
    diagnosis = Diagnosis(
        library_version=__version__,
        name=request.name,
        weights_sha256=config.weights_sha256,
        base_model=config.base_model,
        family=config.family,
        objective=config.objective,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        seed=request.seed,
        images=source,
        num_images=num_images,
        changes=tuple(measured.changes),
        likeness=tuple(measured.likeness),
        attention=tuple(measured.attention),
        ranks=tuple(measured.ranks),
        own_errors=tuple(measured.own_errors),
        weights=tuple(measured.weights),
        gradients=tuple(measured.gradients),
        missing=_missing(subject, measured),
    )
    return diagnosis.model_copy(update={"findings": findings_of(diagnosis)})


def _missing(subject: Subject, measured: Measured) -> tuple[str, ...]:
    missing = []
    if "untrained" not in subject.tokens:
        missing.append("untrained tokens; the adapter came without its step-0 tokens.")
    if subject.training is None:
        missing.append("gradients and match weight; the adapter does not say how it was trained.")
    kinds = {rank.kind for rank in measured.ranks}
    absent = [kind for kind in EDIT_KINDS if kind not in kinds]
    if absent:
        missing.append(f"edits of {', '.join(absent)}; no caption of these images gives any.")
    return tuple(missing)
