"""Datasets that hold their images: WebDataset tars, and Hugging Face datasets saved to disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from softalign.config.curation import WebDatasetSource
from softalign.data.curation.arrow_tables import open_arrow
from softalign.data.curation.samples import HeldImage, ListedSample
from softalign.data.curation.saved_dataset import saved_files
from softalign.data.curation.sources import reader_of
from softalign.data.drafting.coco import counted_apart
from softalign.data.drafting.images import NUM_LOOKED_AT, look_at
from softalign.data.drafting.records import Found, SourceDraft
from softalign.data.drafting.tables import columns_of, find_held
from softalign.errors import DataError

CAPTION_FIELDS = ("caption", "captions", "text")
"""What the JSON members of tars usually call their captions, the likeliest first."""


def find_tars(tars: Sequence[Path]) -> Found:
    """Return what some tars of one folder hold, by the first of them.

    Raises:
        DataError: the first is no tar, or holds no images with captions.
    """
    path = str(tars[0]) if len(tars) == 1 else f"{tars[0].parent}/*{tars[0].suffix}"
    for field in CAPTION_FIELDS:
        reader = reader_of(WebDatasetSource(shards_uri=str(tars[0]), caption_field=field))
        samples = [_looked_at(place, sample) for place, sample in enumerate(reader.samples("", lambda _: None))]
        if any(captions for captions, _ in samples):
            break
    else:
        raise DataError(
            "This tar holds no images with captions.",
            expected=f"members such as 0001.jpg with 0001.txt, or 0001.json with {' or '.join(CAPTION_FIELDS)}",
            found=f"{len(samples)} names",
            where=str(tars[0]),
            fix="unpack it, then name the folder",
        )
    draft = SourceDraft(type="webdataset", table=path, caption_column="" if field == CAPTION_FIELDS[0] else field)
    images = [data for _, data in samples if data][:NUM_LOOKED_AT]
    source = counted_apart(draft, [captions for captions, _ in samples], look_at(images))
    notes = (f"{path}: counted in the first of {len(tars)} tars",) if len(tars) > 1 else ()
    return Found(sources=(source,), notes=notes)


def _looked_at(place: int, sample: ListedSample) -> tuple[tuple[object, ...], bytes]:
    """Return a sample's captions, and of the first ones the image."""
    is_looked_at = place < NUM_LOOKED_AT and isinstance(sample.images, HeldImage)
    return sample.captions, sample.images.read(sample.filename) if is_looked_at else b""


def find_saved(folder: Path) -> Found:
    """Return what a saved dataset holds.

    Raises:
        DataError: it cannot be used, or has no such columns.
    """
    files = saved_files(str(folder))
    path = Path(files[0].path)
    columns = columns_of(path, open_arrow)
    draft = SourceDraft(
        type="hf", table=str(folder), image_column=columns.images[0], caption_column=columns.captions[0]
    )
    found = find_held(draft, path, open_arrow)
    notes = (f"{folder}: counted in the first of {len(files)} files",) if len(files) > 1 else ()
    return found.model_copy(update={"notes": notes})
