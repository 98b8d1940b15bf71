"""Whose weights a detector has: the label that its scores carry, and the digest that keys hold. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from softalign.artifacts import Frozen, digest_of
from softalign.backbones.locating import files_fingerprint
from softalign.config.evaluation import DetectorConfig
from softalign.store.files import sha256_of_file

DetectorLabel = Literal["geneval", "geneval-hf"]
"""What scores are called: ``geneval`` with the official weights alone, ``geneval-hf`` with any other."""
WEIGHTS_FILENAME = "model.safetensors"
CONVERSION_FILENAME = "conversion.json"
OFFICIAL_CHECKPOINT_SHA256 = "743b7d99"
"""The first digits of the official checkpoint's sha256, which its file name ends in (OpenMMLab names files so)."""
OFFICIAL_CLIP = "openai/clip-vit-large-patch14"
OFFICIAL_CLIP_SHA256 = "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
"""Of its model.safetensors, as the hub lists it."""


class Conversion(Frozen):
    """What a converted folder says of where its weights come from: ``conversion.json``.

    Attributes:
        checkpoint_sha256: of the mmdet checkpoint.
        weights_sha256: of ``model.safetensors`` as it was written.
    """

    checkpoint_sha256: str
    weights_sha256: str

    @property
    def is_official(self) -> bool:
        """Whether the checkpoint is the one that GenEval's authors use."""
        return self.checkpoint_sha256.startswith(OFFICIAL_CHECKPOINT_SHA256)


def detector_label(config: DetectorConfig) -> DetectorLabel:
    """Return what scores of a detector may be called.

    ``geneval`` needs both: a folder that was converted from the official checkpoint and not changed since, and CLIP
    ViT-L/14 from the hub or as a folder with the same bytes. A guard against mistakes, not against forgery.
    """
    is_official = _is_official_segmenter(Path(config.segmenter)) and _is_official_clip(config.color_classifier)
    return "geneval" if is_official else "geneval-hf"


def detector_fingerprint(config: DetectorConfig) -> str:
    """Return a digest of both models: of folders their content, of hub models id and revision."""
    return digest_of(
        [
            files_fingerprint(config.segmenter, config.segmenter_revision),
            files_fingerprint(config.color_classifier, config.color_classifier_revision),
        ]
    )


def _is_official_segmenter(folder: Path) -> bool:
    record, weights = folder / CONVERSION_FILENAME, folder / WEIGHTS_FILENAME
    if not (record.is_file() and weights.is_file()):
        return False
    try:
        conversion = Conversion.model_validate_json(record.read_bytes())
    except ValidationError:
        return False
    return conversion.is_official and sha256_of_file(weights) == conversion.weights_sha256


def _is_official_clip(model: str) -> bool:
    weights = Path(model) / WEIGHTS_FILENAME
    return sha256_of_file(weights) == OFFICIAL_CLIP_SHA256 if weights.is_file() else model == OFFICIAL_CLIP
