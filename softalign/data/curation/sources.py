"""Sources: captions tables as a data team hands them over, read as one stream of listed samples.

A table is read whole (text only: about 0.5 GB for the 590 000 captions of COCO); images are read one by one, later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from softalign.config.curation import CocoSource, ParquetSource, ShapesSource, Source
from softalign.data.curation.coco import read_coco
from softalign.data.curation.image_folder import NUM_WITNESSES, ImageFolder
from softalign.data.curation.parquet import check_parquet, read_parquet
from softalign.data.curation.samples import ListedSample
from softalign.shapes.rendering import render_source


def _ignore(_number: int) -> None:
    """Nobody asked for a number."""


def list_sources(
    sources: tuple[Source, ...], work_path: Path, on_total: Callable[[int], None] = _ignore
) -> Iterator[ListedSample]:
    """Yield the samples of all sources in order; scenes of the embedded world are rendered below ``work_path`` first.

    Args:
        sources: in their order.
        work_path: a folder for what is rendered.
        on_total: called with the number of all samples once the last source's table is read.

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
        name = f"{index}-{source.type}"
        yield from list_samples(source, name, work_path / name, note)


def list_samples(
    source: Source, name: str, work_path: Path, on_number: Callable[[int], None] = _ignore
) -> Iterator[ListedSample]:
    """Yield one source's samples, images in the table's order, then the entries that cannot be used, with their flaw.

    ``on_number`` is called with their number before the first.

    Raises:
        MissingInputError: the table or the image folder is not there.
        DataError: the table cannot be used as a whole.
    """
    if isinstance(source, ShapesSource):
        source = render_source(source, work_path)
    table = read_coco(source) if isinstance(source, CocoSource) else read_parquet(source)
    names = list(table.captions)
    witnesses = tuple(names[:: max(1, len(names) // NUM_WITNESSES)][:NUM_WITNESSES])
    images = ImageFolder(source.images_uri, witnesses)
    images.require()
    on_number(len(table.captions) + len(table.flaws))
    for filename, texts in table.captions.items():
        yield ListedSample(name, filename, images, tuple(texts))
    for shown_name, flaw in table.flaws.items():
        yield ListedSample(name, shown_name, images, (), flaw)


def check_table(source: CocoSource | ParquetSource) -> None:
    """Check a captions table without reading rows of a Parquet file.

    Raises:
        MissingInputError: the table is not there.
        DataError: the table cannot be used as a whole.
    """
    if isinstance(source, CocoSource):
        read_coco(source)
    else:
        check_parquet(source)
