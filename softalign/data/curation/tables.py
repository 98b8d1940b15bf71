"""What every captions table comes to: captions by image, the entries that cannot be used, and errors of the whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

from softalign.config.curation import HttpConfig
from softalign.data.curation.image_folder import NUM_WITNESSES, ImageFolder
from softalign.data.curation.names import NameRules, is_url, shown
from softalign.data.curation.parts import read_file
from softalign.data.curation.rejections import Flaw
from softalign.data.curation.samples import ListedSample, WeightedCaption
from softalign.data.curation.scratch import Grouped
from softalign.data.curation.urls import HTTP_DEFAULTS, UrlImages
from softalign.errors import DataError, MissingInputError
from softalign.store.files import open_filesystem
from softalign.store.reaching import reaching

_MAX_NAMES_SHOWN = 5
_SIGNATURES = {
    b"PAR1": "a Parquet file",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"ARROW1": "an Arrow file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8": "a JPEG image",
    b"{": "JSON text",
    b"[": "JSON text",
    b"<": "an HTML or XML page",
}


@dataclass(frozen=True, slots=True)
class CaptionTable:
    """A table's content, which is brought together on the disk; nothing can be added once anything was asked for.

    Attributes:
        rules: what names may be.
    """

    rules: NameRules = field(default_factory=NameRules)
    _captions: Grouped = field(default_factory=Grouped)
    _flaws: Grouped = field(default_factory=Grouped)

    def add_image(self, name: object, place: str, captions: Iterable[object] = ()) -> str | None:
        """List an image and return its name, or None where it has none that can be used; that is noted, the first time.

        Args:
            name: the cell; bytes where it is no UTF-8.
            place: where the table says so, such as ``images[3]``; shown for an image without a name.
            captions: of this row, unchecked; those of the image's other rows stay.

        Raises:
            StorageUnavailableError: there is no room for temporary files.
        """
        found = self.rules.read(name)
        if isinstance(found, Flaw):
            self._note(place if found.reason == "no_name" else shown(name), found, is_last=False)
            return None
        self.add_captions(found, captions)
        return found

    def add_captions(self, name: str, captions: Iterable[object]) -> None:
        """Add captions, unchecked, to an image that ``add_image`` returned."""
        self._captions.add(name, _packed([_storable(caption) for caption in captions]))

    def add_flaw(self, place: str, flaw: Flaw) -> None:
        """Note why an entry without a name, or that cannot be used at all, is none; the last of a place counts."""
        self._note(place, flaw, is_last=True)

    def images(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Yield each image with its captions, in the table's order; the names can name a file of the image folder."""
        for name, rows in self._captions.items():
            yield name, tuple(_caption(stored) for row in rows for stored in _unpacked(row))

    def flaws(self) -> Iterator[tuple[str, Flaw]]:
        """Yield the entries that cannot be used by the name or place that is shown, with their flaw."""
        for shown_name, notes in self._flaws.items():
            found = [_unpacked(note) for note in notes]
            reason, detail, _ = ([note for note in found if note[-1]] or found[:1])[-1]
            yield shown_name, Flaw(reason, detail)

    def require_entries(self, where: str) -> None:
        """Refuse a table without rows.

        Raises:
            DataError: it has none.
        """
        if not self._captions and not self._flaws:
            raise empty_table(where, "rows")

    def _note(self, shown_name: str, flaw: Flaw, *, is_last: bool) -> None:
        self._flaws.add(shown_name, _packed([flaw.reason, flaw.detail, is_last]))

    def samples(
        self, source: str, images_uri: str, on_number: Callable[[int], None], http: HttpConfig = HTTP_DEFAULTS
    ) -> Iterator[ListedSample]:
        """Yield the images in the table's order, then the entries that cannot be used, with their flaw.

        Args:
            source: the source's name.
            images_uri: the folder of the images.
            on_number: called with their number before the first.
            http: how images behind HTTP are fetched.

        Raises:
            MissingInputError: the image folder is not there.
        """
        num_images, num_paths = len(self._captions), sum(1 for _ in self._paths())
        witnesses = islice(self._paths(), 0, None, max(1, num_paths // NUM_WITNESSES))
        folder = ImageFolder(images_uri, tuple(islice(witnesses, NUM_WITNESSES)), http)
        if num_paths or (self.rules.has_folder and not num_images):
            folder.require()
        on_number(num_images + len(self._flaws))
        for name, captions in self.images():
            images = UrlImages(http) if is_url(name) else folder
            yield ListedSample(source, name, images, captions)
        for shown_name, flaw in self.flaws():
            yield ListedSample(source, shown_name, folder, (), flaw)

    def _paths(self) -> Iterator[str]:
        return (name for name in self._captions if not is_url(name))


_packed_text = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _packed(value: list[Any]) -> bytes:
    return _packed_text(value).encode("utf-8", "surrogatepass")


def _unpacked(stored: bytes) -> Any:
    return json.loads(stored.decode("utf-8", "surrogatepass"))


def _storable(caption: object) -> str | dict[str, Any]:
    """Return a caption as JSON can hold it; of lists and objects, which are none, the type alone: they may be deep."""
    match caption:
        case WeightedCaption():
            return {"text": str(caption), "weight": caption.weight}
        case str():
            return caption
        case bytes():
            return {"bytes": caption.decode("latin-1")}
        case list() | dict():
            return {"other": type(caption)()}
        case _:
            return {"other": caption}


def _caption(stored: Any) -> object:
    """Return the caption that ``_storable`` made this of."""
    match stored:
        case {"text": text, "weight": weight}:
            return WeightedCaption(text, weight)
        case {"bytes": text}:
            return text.encode("latin-1")
        case {"other": other}:
            return other
    return stored


def read_table(uri: str, http: HttpConfig = HTTP_DEFAULTS) -> bytes:
    """Return a table file's content.

    Raises:
        MissingInputError: there is no such file; says what a folder in its place holds.
        ConfigError: the store refused access.
        StorageUnavailableError: the store did not answer.
    """
    try:
        return read_file(uri, http)
    except MissingInputError as error:
        names = [] if is_url(uri) else _names_in_folder(uri)
        if not names:
            raise
        raise MissingInputError(
            "The captions table is a folder.",
            expected="one file",
            found=f"a folder with {', '.join(names[:_MAX_NAMES_SHOWN])}" + (", ..." * (len(names) > _MAX_NAMES_SHOWN)),
            where=uri,
            fix="name one file; for a table in parts see the source types parquet and table",
        ) from error


def kind_of(data: bytes) -> str:
    """Return what a file seems to be, in words, by how it starts."""
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:16]
    known = (words for signature, words in _SIGNATURES.items() if start.startswith(signature))
    return next(known, f"a file that starts with {start!r}" if start else "an empty file")


def empty_table(where: str, name: str) -> DataError:
    """Return the error of a table without rows."""
    return DataError("The captions table is empty.", expected="at least one row", found=f"0 rows ({name})", where=where)


def _names_in_folder(uri: str) -> list[str]:
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        entries = filesystem.ls(path, detail=False) if filesystem.isdir(path) else []
    return sorted(PurePosixPath(str(entry)).name for entry in entries)
