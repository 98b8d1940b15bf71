"""What flows through curation: a sample as its source lists it, and the same with its image read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol, Self

from softalign.data.curation.rejections import UNLIMITED, Flaw, too_large


class Images(Protocol):
    """Where a listed sample's image comes from."""

    def read(self, filename: str, max_bytes: int = UNLIMITED) -> bytes:
        """Return an image file's content, of at most ``max_bytes``.

        Raises:
            ItemError: this one cannot be read; others can.
            ConfigError: it cannot be opened at all, or is refused as a whole.
            StorageUnavailableError: the store does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image that its table or archive holds itself."""

    data: bytes

    def read(self, filename: str, max_bytes: int = UNLIMITED) -> bytes:
        """Return the image file's content, whatever it is called.

        Raises:
            ItemError: it is too large.
        """
        if len(self.data) > max_bytes:
            raise too_large(max_bytes)
        return self.data


class WeightedCaption(str):
    """A caption that training draws more or less often than others of its image; a text like any other else."""

    __slots__ = ("weight",)
    weight: float

    def __new__(cls, text: str, weight: float = 1.0) -> Self:
        """Return the text with its weight."""
        made = super().__new__(cls, text)
        made.weight = weight
        return made


def weight_of(caption: object) -> float:
    """Return a caption's weight: 1 unless it is told."""
    return caption.weight if isinstance(caption, WeightedCaption) else 1.0


def with_weight(caption: str, weight: float) -> str:
    """Return a caption that has this weight."""
    return str(caption) if weight == 1.0 else WeightedCaption(caption, weight)


@dataclass(frozen=True, slots=True)
class ListedSample:
    """One image and its captions as the source's table names them; its file was not read or checked yet.

    Attributes:
        source: the source's name within the dataset, such as ``0-coco``.
        filename: the image's path relative to the image folder, its URL, or its place in the table or archive.
        images: what it is read from.
        captions: as found, some with weights; anything that is not a string is rejected by the filters.
        flaw: why the table's entry cannot be used, so that no image is looked for.
    """

    source: str
    filename: str
    images: Images
    captions: tuple[object, ...]
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One image that can be decoded, with captions that passed.

    Attributes:
        image: the file's bytes, as the dataset stores them.
        extension: ``jpg``, ``png`` or ``webp``, from the content.
        image_digest: sha256 hex digest of ``image``.
        perceptual_hash: see ``hashing.perceptual_hash``.
        width_px: after the EXIF orientation was applied; ``height_px`` likewise.
        is_animated: the file has further pictures.
        source_digest: sha256 hex digest of the source's file, where ``image`` is another one; else empty.
        path: of a file of this run that has the image's bytes, where ``image`` is empty: see ``spooling``.
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
    source_digest: str = ""
    path: str = ""


def caption_digest(caption: str) -> str:
    """Return the sha256 hex digest of a caption's UTF-8 bytes: the key of its encoding."""
    return hashlib.sha256(caption.encode()).hexdigest()
