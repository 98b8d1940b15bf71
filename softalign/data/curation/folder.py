"""Folders of images with their captions in files of the same names beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import PurePosixPath

from softalign.config.curation import FolderSource
from softalign.data.curation.caption_files import IMAGE_SUFFIXES, TEXT_SUFFIXES, captions_in
from softalign.data.curation.image_folder import NUM_WITNESSES, ImageFolder
from softalign.data.curation.listing import files_below
from softalign.data.curation.names import flaw_of_name, is_url, shown
from softalign.data.curation.rejections import ItemError
from softalign.data.curation.samples import ListedSample
from softalign.data.curation.scratch import Scratch, SortedFiles, of_key, to_key
from softalign.errors import ConfigError, DataError
from softalign.store.read_ahead import map_ahead

MAX_TEXT_BYTES = 2**20
"""Of a file of captions: what is larger is none."""
NUM_READERS = 8
"""Captions files that are read at a time: each is small, and a remote store is waited for."""
AT_ONCE = 8
"""That a thread is handed: of a local one reading takes less time than handing it over."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """An image, and the files beside it, by their suffix."""

    image: str
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class FolderReader:
    """A folder of images and captions; the names of its files are sorted on the disk."""

    source: FolderSource

    def check(self) -> None:
        """Check that the folder is there; see ``sources.SourceReader``."""
        ImageFolder(self.source.images_uri).require()

    def samples(self, name: str, on_number: Callable[[int], None]) -> Iterator[ListedSample]:
        """Yield the samples by the images' names; see ``sources.SourceReader``."""
        self.check()
        pairs = _Pairs(name for name, _ in visible_files(self.source.images_uri))
        number = len(pairs)
        if not number:
            raise DataError(
                "There is no image in this folder.",
                expected=f"files that end in {', '.join(IMAGE_SUFFIXES)}",
                found="none",
                where=self.source.images_uri,
                fix="correct images_uri of this source",
            )
        witnesses = islice(pairs.images(), 0, None, max(1, number // NUM_WITNESSES))
        folder = ImageFolder(self.source.images_uri, tuple(islice(witnesses, NUM_WITNESSES)))
        on_number(number)
        return map_ahead(lambda pair: self._sample(name, pair, folder), pairs, NUM_READERS, at_once=AT_ONCE)

    def _sample(self, name: str, pair: _Pair, folder: ImageFolder) -> ListedSample:
        if flaw := flaw_of_name(pair.image):
            return ListedSample(name, shown(pair.image), folder, (), flaw)
        try:
            texts = {suffix: folder.read(text, MAX_TEXT_BYTES) for suffix, text in pair.texts.items()}
        except ItemError as error:
            return ListedSample(name, pair.image, folder, (), error.flaw)
        return ListedSample(name, pair.image, folder, captions_in(texts, self.source.caption_field))


class _Pairs:
    """The images among some files, in their order, with the captions files that differ from them by the suffix alone.

    Args:
        names: of the files, sorted.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._scratch = Scratch("CREATE TABLE images(name BLOB, stem BLOB)", "CREATE TABLE texts(name BLOB, stem BLOB)")
        for name in names:
            suffix = PurePosixPath(name).suffix
            keys = (to_key(name), to_key(name.removesuffix(suffix)))
            if suffix.lower() in TEXT_SUFFIXES:
                self._scratch.add("INSERT INTO texts VALUES(?, ?)", keys)
            elif suffix.lower() in IMAGE_SUFFIXES:
                self._scratch.add("INSERT INTO images VALUES(?, ?)", keys)
        self._scratch.do("CREATE INDEX by_stem ON texts(stem)")

    def __len__(self) -> int:
        return self._scratch.number("SELECT count(*) FROM images")

    def images(self) -> Iterator[str]:
        """Yield the images alone."""
        return (of_key(name) for (name,) in self._scratch.rows("SELECT name FROM images ORDER BY rowid"))

    def __iter__(self) -> Iterator[_Pair]:
        rows = self._scratch.rows(
            "SELECT images.name, texts.name FROM images LEFT JOIN texts USING (stem) ORDER BY images.rowid, texts.rowid"
        )
        for image, group in groupby(rows, lambda row: row[0]):
            texts = [of_key(text) for _, text in group if text is not None]
            yield _Pair(of_key(image), {PurePosixPath(text).suffix.lower(): text for text in texts})


def visible_files(uri: str) -> SortedFiles:
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
    found = files_below(uri)
    return SortedFiles((name, size) for name, size in found if not any(map(_is_hidden, name.split("/"))))


def _is_hidden(part: str) -> bool:
    return part.startswith(".")
