"""What flows through curation: a sample as its source lists it, the same with its image read, or its rejection."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ListedSample:
    """One image and its captions as the source's table names them; nothing was read or checked yet.

    Attributes:
        source: the source's name within the dataset, such as ``0-coco``.
        file_name: the image's path as the table gives it, relative to the image folder.
        images_uri: the image folder.
        captions: as found; anything that is not a string is rejected by the filters.
    """

    source: str
    file_name: str
    images_uri: str
    captions: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One image that can be decoded, with captions that passed.

    Attributes:
        image: the file's bytes, unchanged.
        extension: ``jpg``, ``png`` or ``webp``, from the content.
        image_digest: sha256 hex digest of ``image``.
        perceptual_hash: see ``images.perceptual_hash``.
        width_px: after the EXIF orientation was applied; ``height_px`` likewise.
    """

    source: str
    file_name: str
    captions: tuple[str, ...]
    image: bytes
    extension: str
    image_digest: str
    perceptual_hash: int
    width_px: int
    height_px: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an image (``caption_index`` -1) or one of its captions is not in the dataset."""

    source: str
    file_name: str
    reason: str
    detail: str = ""
    caption_index: int = -1


def caption_digest(caption: str) -> str:
    """Return the sha256 hex digest of a caption's UTF-8 bytes: the key of its encoding."""
    return hashlib.sha256(caption.encode()).hexdigest()
