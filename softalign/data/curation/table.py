"""Tables as sources: files of any known format, with images by path, by URL, or in their own rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice

from softalign.config.curation import HttpConfig
from softalign.data.curation.arrow_tables import open_arrow, open_parquet
from softalign.data.curation.image_folder import NUM_WITNESSES, ImageFolder
from softalign.data.curation.names import NameRules, is_url, shown
from softalign.data.curation.opening import COMPRESSED_SUFFIXES, plain_name
from softalign.data.curation.parts import SourceFile, files_of
from softalign.data.curation.rejections import Flaw
from softalign.data.curation.rows import Columns, OpenTable, Row, StoredImage
from softalign.data.curation.samples import HeldImage, ListedSample
from softalign.data.curation.tables import CaptionTable, empty_table
from softalign.data.curation.text_tables import open_csv, open_jsonl, open_tsv
from softalign.data.curation.urls import HTTP_DEFAULTS, UrlImages
from softalign.errors import DataError

Opener = Callable[[SourceFile], AbstractContextManager[OpenTable]]
FORMATS: dict[str, Opener] = {
    ".parquet": open_parquet,
    ".pq": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".csv": open_csv,
    ".tsv": open_tsv,
    ".jsonl": open_jsonl,
    ".ndjson": open_jsonl,
}
"""What opens a file, by how its name ends."""
_MAX_COUNTED_FILES = 64
"""Of more parts the rows are not counted before the first is read."""


def is_table(name: str) -> bool:
    """Return whether a file is a table, by its name."""
    return format_of(name) is not None


def is_parquet(name: str) -> bool:
    """Return whether a file is a Parquet table, by its name."""
    return format_of(name) is open_parquet


def format_of(name: str) -> Opener | None:
    """Return what opens a file, by its name; None where it is no table."""
    plain = plain_name(name)
    return next((opener for suffix, opener in FORMATS.items() if plain.endswith(suffix)), None)


@dataclass(frozen=True)
class TableReader:
    """A table in one or more files of the same columns.

    A table of paths is read whole, and the captions of an image are brought together wherever its rows are, on the
    disk. Of a table that holds images each row is one. A few rows are in memory.

    Attributes:
        files: in their order.
        columns: which are read.
        images_uri: what paths are relative to; None: there are none.
        opener: what opens each file; None: by its name.
        http: how images behind HTTP are fetched.
        allows_urls: cells may be URLs.
    """

    files: tuple[SourceFile, ...]
    columns: Columns
    images_uri: str | None
    opener: Opener | None = None
    http: HttpConfig = HTTP_DEFAULTS
    allows_urls: bool = False

    def check(self) -> None:
        """Check the first file's columns, without reading on.

        Raises:
            MissingInputError: it is not there.
            DataError: it is damaged, of no known format, lacks a column, or has no row.
        """
        with self._opened(self.files[0]) as table:
            if table.num_rows == 0 and len(self.files) == 1:
                raise empty_table(self.files[0].uri, "rows")

    def samples(self, name: str, on_number: Callable[[int], None]) -> Iterator[ListedSample]:
        """Yield the samples; see ``sources.SourceReader``."""
        with self._opened(self.files[0]) as table:
            holds_images = table.holds_images(self.columns.image)
        if holds_images:
            if (number := self._num_rows()) is not None:
                on_number(number)
            return self._held(name)
        return self.grouped().samples(name, self.images_uri or "", on_number, self.http)

    def grouped(self) -> CaptionTable:
        """Return the captions of each image of a table of paths.

        Raises:
            DataError: a file is damaged, lacks a column, or holds images where the first has paths; or there is no row.
        """
        table = CaptionTable(self._rules)
        for place, row in self._rows(may_hold_images=False):
            if row.flaw is not None:
                table.add_flaw(place, row.flaw)
            else:
                table.add_image(row.image, place, row.captions)
        table.require_entries(self.files[0].uri)
        return table

    def _held(self, name: str) -> Iterator[ListedSample]:
        rows = self._rows(may_hold_images=True)
        first = list(islice(rows, NUM_WITNESSES))
        if not first:
            raise empty_table(self.files[0].uri, "rows")
        paths = [self._path_of(row.image) for _, row in first]
        witnesses = tuple(path for path in paths if isinstance(path, str) and not is_url(path))
        folder = ImageFolder(self.images_uri or "", witnesses, self.http)
        for place, row in chain(first, rows):
            yield self._held_sample(name, place, row, folder)

    def _held_sample(self, name: str, place: str, row: Row, folder: ImageFolder) -> ListedSample:
        if isinstance(row.image, StoredImage) and row.image.data is not None:
            called = shown(row.image.path) if row.image.path else place
            return ListedSample(name, called, HeldImage(row.image.data), row.captions)
        found = self._path_of(row.image)
        if isinstance(found, Flaw):
            cell = row.image.path if isinstance(row.image, StoredImage) else row.image
            return ListedSample(name, place if found.reason == "no_name" else shown(cell), folder, (), found)
        images = UrlImages(self.http) if is_url(found) else folder
        return ListedSample(name, found, images, row.captions)

    def _path_of(self, cell: object) -> str | Flaw:
        return self._rules.read(cell.path if isinstance(cell, StoredImage) else cell)

    @cached_property
    def _rules(self) -> NameRules:
        return NameRules.of_folder(self.images_uri, are_urls_allowed=self.allows_urls)

    def _num_rows(self) -> int | None:
        if len(self.files) > _MAX_COUNTED_FILES:
            return None
        total = 0
        for file in self.files:
            with self._opened(file) as table:
                if table.num_rows is None:
                    return None
                total += table.num_rows
        return total

    def _rows(self, *, may_hold_images: bool) -> Iterator[tuple[str, Row]]:
        """Yield all rows with their places: ``rows[3]``, of several files ``part-2.csv: rows[3]``."""
        for file in self.files:
            before = f"{file.name}: " if len(self.files) > 1 else ""
            with self._opened(file) as table:
                if table.holds_images(self.columns.image) and not may_hold_images:
                    raise DataError(
                        "The files of this table differ.",
                        expected=f"paths in the column {self.columns.image}, as in {self.files[0].name}",
                        found="images",
                        where=file.uri,
                        fix="make two sources of them",
                    )
                for number, row in enumerate(table.rows(self.columns)):
                    yield f"{before}rows[{number}]", row

    def _opened(self, file: SourceFile) -> AbstractContextManager[OpenTable]:
        opener = self.opener or format_of(file.name)
        if opener is None:
            raise DataError(
                "This file is no table of a known kind.",
                expected=f"a name that ends in {', '.join(FORMATS)}, also with {' or '.join(COMPRESSED_SUFFIXES)}",
                found=file.name,
                where=file.uri,
                fix="rename it, or write it in one of these formats",
            )
        return _checked(opener, file, self.columns)


@contextmanager
def _checked(opener: Opener, file: SourceFile, columns: Columns) -> Iterator[OpenTable]:
    with opener(file) as table:
        table.check(columns)
        yield table


def table_files(uri: str, is_wanted: Callable[[str], bool], http: HttpConfig = HTTP_DEFAULTS) -> tuple[SourceFile, ...]:
    """Return a table's files, all of one format.

    Raises:
        MissingInputError: there is none.
        DataError: a folder or glob has tables of several formats.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    files = files_of(uri, is_wanted, http)
    if len(formats := {format_of(file.name): file.name for file in files}) > 1:
        raise DataError(
            "The files of this table are of several kinds.",
            expected="files of one kind",
            found=", ".join(sorted(formats.values())),
            where=uri,
            fix="name those that are meant with a glob such as *.parquet",
        )
    return files
