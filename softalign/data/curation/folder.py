"""Folders of images with their captions in files of the same names beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from softalign.config.curation import FolderSource
from softalign.data.curation.caption_files import IMAGE_SUFFIXES, TEXT_SUFFIXES, captions_in
from softalign.data.curation.image_folder import NUM_WITNESSES, ImageFolder
from softalign.data.curation.listing import files_below
from softalign.data.curation.names import flaw_of_name, is_url, shown
from softalign.data.curation.rejections import ItemError
from softalign.data.curation.samples import ListedSample
from softalign.errors import ConfigError, DataError
from softalign.store.read_ahead import map_ahead

MAX_TEXT_BYTES = 2**20
"""Of a file of captions: what is larger is none."""
NUM_READERS = 8
"""Captions files that are read at a time: each is small, and a remote store is waited for."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """An image, and the files beside it, by their suffix."""

    image: str
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class FolderReader:
    """A folder of images and captions; the names of its files are held in memory, nothing else."""

    source: FolderSource

    def check(self) -> None:
        """Check that the folder is there; see ``sources.SourceReader``."""
        ImageFolder(self.source.images_uri).require()

    def samples(self, name: str, on_number: Callable[[int], None]) -> Iterator[ListedSample]:
        """Yield the samples by the images' names; see ``sources.SourceReader``."""
        self.check()
        pairs = self._pairs()
        if not pairs:
            raise DataError(
                "There is no image in this folder.",
                expected=f"files that end in {', '.join(IMAGE_SUFFIXES)}",
                found="none",
                where=self.source.images_uri,
                fix="correct images_uri of this source",
            )
        images = [pair.image for pair in pairs]
        witnesses = images[:: max(1, len(images) // NUM_WITNESSES)][:NUM_WITNESSES]
        folder = ImageFolder(self.source.images_uri, tuple(witnesses))
        on_number(len(pairs))
        return map_ahead(lambda pair: self._sample(name, pair, folder), pairs, NUM_READERS)

    def _pairs(self) -> list[_Pair]:
        texts: dict[str, dict[str, str]] = {}
        images = []
        for name in visible_files(self.source.images_uri):
            suffix = PurePosixPath(name).suffix
            if suffix.lower() in TEXT_SUFFIXES:
                texts.setdefault(name.removesuffix(suffix), {})[suffix.lower()] = name
            elif suffix.lower() in IMAGE_SUFFIXES:
                images.append(name)
        return [_Pair(name, texts.get(name.removesuffix(PurePosixPath(name).suffix), {})) for name in images]

    def _sample(self, name: str, pair: _Pair, folder: ImageFolder) -> ListedSample:
        if flaw := flaw_of_name(pair.image):
            return ListedSample(name, shown(pair.image), folder, (), flaw)
        try:
            texts = {suffix: folder.read(text, MAX_TEXT_BYTES) for suffix, text in pair.texts.items()}
        except ItemError as error:
            return ListedSample(name, pair.image, folder, (), error.flaw)
        return ListedSample(name, pair.image, folder, captions_in(texts, self.source.caption_field))


def visible_files(uri: str) -> dict[str, int | None]:
    """Return the files below a folder in the order of their names, with their sizes, without hidden ones.

    Raises:
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    if is_url(uri):
        raise ConfigError(
            "A folder behind HTTP cannot be listed.",
            expected="a folder on a disk or an object store",
            found=uri,
            fix="list its images in a table, with this address as images_uri, or copy it",
        )
    files = sorted(files_below(uri).items())
    return {name: size for name, size in files if not any(part.startswith(".") for part in name.split("/"))}
