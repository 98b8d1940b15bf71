"""Sources: captions with images as a data team hands them over, read as one stream of listed samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from softalign.artifacts import SourceWeight
from softalign.config.curation import (
    CocoSource,
    FileSource,
    FolderSource,
    HFSource,
    ParquetSource,
    ShapesSource,
    Source,
    TableSource,
    WebDatasetSource,
)
from softalign.data.curation.arrow_tables import open_arrow, open_parquet
from softalign.data.curation.coco import CocoReader
from softalign.data.curation.folder import FolderReader
from softalign.data.curation.rows import Columns
from softalign.data.curation.samples import ListedSample
from softalign.data.curation.saved_dataset import saved_files
from softalign.data.curation.table import TableReader, is_parquet, is_table, table_files
from softalign.data.curation.webdataset import WebDatasetReader, webdataset_files
from softalign.shapes.rendering import render_source


class SourceReader(Protocol):
    """Reads one kind of source."""

    def check(self) -> None:
        """Check that it can be read, by its beginning.

        Raises:
            MissingInputError: it is not there.
            DataError: it cannot be used as a whole.
        """
        ...

    def samples(self, name: str, on_number: Callable[[int], None]) -> Iterator[ListedSample]:
        """Yield its images in its order, the same each time; what cannot be used comes with its flaw.

        Args:
            name: the source's.
            on_number: called with their number before the first, where that can be known.

        Raises:
            MissingInputError: it, or its image folder, is not there.
            DataError: it cannot be used as a whole.
            ConfigError: access to it was refused.
            StorageUnavailableError: its store did not answer.
        """
        ...


def _ignore(_number: int) -> None:
    """Nobody asked for a number."""


def list_sources(
    sources: tuple[Source, ...], work_path: Path, on_total: Callable[[int], None] = _ignore
) -> Iterator[ListedSample]:
    """Yield the samples of all sources in order; scenes of the embedded world are rendered below ``work_path`` first.

    Args:
        sources: in their order.
        work_path: a folder for what is rendered.
        on_total: called with the number of all samples once the last source's is known; never where one's is not.

    Raises:
        MissingInputError: a table or an image folder is not there.
        DataError: a table cannot be used as a whole; says what it is.
    """
    numbers: list[int] = []

    def note(number: int) -> None:
        numbers.append(number)
        if len(numbers) == len(sources):
            on_total(sum(numbers))

    for index, source in enumerate(sources):
        name = source_name(index, source)
        yield from list_samples(source, name, work_path / name, note)


def source_weights(sources: tuple[Source, ...]) -> tuple[SourceWeight, ...]:
    """Return the weights of the sources that have another than 1."""
    named = ((source_name(index, source), source.weight) for index, source in enumerate(sources))
    return tuple(SourceWeight(source=name, weight=weight) for name, weight in named if weight != 1.0)


def source_name(index: int, source: Source) -> str:
    """Return what a dataset calls one of its sources, by its place among them."""
    return f"{index}-{source.type}"


def list_samples(
    source: Source, name: str, work_path: Path, on_number: Callable[[int], None] = _ignore
) -> Iterator[ListedSample]:
    """Yield one source's samples; see ``SourceReader.samples``."""
    if isinstance(source, ShapesSource):
        source = render_source(source, work_path)
    return reader_of(source).samples(name, on_number)


def check_source(source: Source) -> None:
    """Check that a source can be read, by its beginning; one that is rendered always can.

    Raises:
        MissingInputError: it is not there.
        DataError: it cannot be used as a whole.
    """
    if not isinstance(source, ShapesSource):
        reader_of(source).check()


def reader_of(source: FileSource) -> SourceReader:
    """Return what reads a source.

    Raises:
        MissingInputError: a folder, glob or range names no file.
        DataError: it names files of several kinds.
        ConfigError: its place cannot be opened.
        StorageUnavailableError: its store did not answer.
    """
    match source:
        case CocoSource():
            return CocoReader(source)
        case ParquetSource():
            files = table_files(source.table_uri, is_parquet, source.http)
            columns = Columns(source.image_column, (source.caption_column,))
            return TableReader(files, columns, source.images_uri, open_parquet, source.http)
        case TableSource():
            files = table_files(source.table_uri, is_table, source.http)
            columns = Columns(source.image_column, source.caption_columns, source.caption_weights)
            return TableReader(files, columns, source.images_uri, None, source.http, source.allow_urls)
        case FolderSource():
            return FolderReader(source)
        case WebDatasetSource():
            return WebDatasetReader(source, webdataset_files(source.shards_uri, source.http))
        case HFSource():
            columns = Columns(source.image_column, source.caption_columns, source.caption_weights)
            return TableReader(saved_files(source.dataset_uri, source.http), columns, None, open_arrow)
