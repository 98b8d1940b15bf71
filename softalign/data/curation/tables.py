"""What every captions table comes to: captions by image, the entries that cannot be used, and errors of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from softalign.config.curation import HttpConfig
from softalign.data.curation.image_folder import NUM_WITNESSES, ImageFolder
from softalign.data.curation.names import NameRules, is_url, shown
from softalign.data.curation.parts import read_file
from softalign.data.curation.rejections import Flaw
from softalign.data.curation.samples import ListedSample
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


@dataclass(slots=True)
class CaptionTable:
    """A table's content.

    Attributes:
        captions: of each image, unchecked, in the table's order; the names can all name a file of the image folder.
        flaws: of the entries without such a name, or that cannot be used at all, by the name or place that is shown.
        rules: what names may be.
    """

    captions: dict[str, list[object]] = field(default_factory=dict)
    flaws: dict[str, Flaw] = field(default_factory=dict)
    rules: NameRules = field(default_factory=NameRules)

    def add_image(self, name: object, place: str) -> str | None:
        """List an image and return its name, or None where it has none that can be used; that is noted.

        Args:
            name: the cell; bytes where it is no UTF-8.
            place: where the table says so, such as ``images[3]``; shown for an image without a name.
        """
        found = self.rules.read(name)
        if isinstance(found, Flaw):
            self.flaws.setdefault(place if found.reason == "no_name" else shown(name), found)
            return None
        self.captions.setdefault(found, [])
        return found

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
        paths = [name for name in self.captions if not is_url(name)]
        witnesses = tuple(paths[:: max(1, len(paths) // NUM_WITNESSES)][:NUM_WITNESSES])
        folder = ImageFolder(images_uri, witnesses, http)
        if paths or (self.rules.has_folder and not self.captions):
            folder.require()
        on_number(len(self.captions) + len(self.flaws))
        for name, captions in self.captions.items():
            images = UrlImages(http) if is_url(name) else folder
            yield ListedSample(source, name, images, tuple(captions))
        for shown_name, flaw in self.flaws.items():
            yield ListedSample(source, shown_name, folder, (), flaw)


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
