"""What flows through curation: a sample as its source lists it, and the same with its image read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.rejections import Flaw


@dataclass(frozen=True, slots=True)
class ListedSample:
    """One image and its captions as the source's table names them; its file was not read or checked yet.

    Attributes:
        source: the source's name within the dataset, such as ``0-coco``.
        filename: the image's path as the table gives it, relative to the image folder.
        images: the image folder.
        captions: as found; anything that is not a string is rejected by the filters.
        flaw: why the table's entry cannot be used, so that no image is looked for.
    """

    source: str
    filename: str
    images: ImageFolder
    captions: tuple[object, ...]
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image that can be decoded, with captions that passed.

    Attributes:
        image: the file's bytes, as the dataset stores them.
        extension: ``jpg``, ``png`` or ``webp``, from the content.
        image_digest: sha256 hex digest of ``image``.
        perceptual_hash: see ``images.perceptual_hash``.
        width_px: after the EXIF orientation was applied; ``height_px`` likewise.
        is_animated: the file has further pictures.
    """

    source: str
    filename: str
    captions: tuple[str, ...]
    image: bytes
    extension: str
    image_digest: str
    perceptual_hash: int
    width_px: int
    height_px: int
    is_animated: bool = False


def caption_digest(caption: str) -> str:
    """Return the sha256 hex digest of a caption's UTF-8 bytes: the key of its encoding."""
    return hashlib.sha256(caption.encode()).hexdigest()
