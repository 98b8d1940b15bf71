"""Folders of images with a file of captions beside each."""

from __future__ import annotations

from pathlib import Path

from softalign.config.curation import FolderSource
from softalign.data.curation.folder import FolderReader
from softalign.data.drafting.coco import counted
from softalign.data.drafting.records import Found, SourceDraft
from softalign.errors import DataError


def find_pairs(folder: Path) -> Found | None:
    """Return the images below a folder with their captions; None where no image has one.

    Raises:
        StorageUnavailableError: a file cannot be read for reasons of its disk.
    """
    reader = FolderReader(FolderSource(images_uri=str(folder)))
    try:
        captions = {sample.filename: list(sample.captions) for sample in reader.samples("", lambda _: None)}
    except DataError:
        return None
    if not any(captions.values()):
        return None
    return Found(sources=(counted(SourceDraft(type="folder", table=str(folder), images=str(folder)), captions),))
