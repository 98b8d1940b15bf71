"""What was found in a folder: sources as a recipe names them, what was counted in them, and what else it could be."""

from __future__ import annotations

from typing import Literal

from softalign.artifacts import Frozen
from softalign.config.curation import (
    CocoSource,
    FileSource,
    FolderSource,
    HFSource,
    ParquetSource,
    TableSource,
    WebDatasetSource,
)


class SourceDraft(Frozen):
    """A source as a recipe will name it.

    Attributes:
        table: the table, or the folder or glob that takes its place.
        images: the folder of images; empty where they are in the table, in archives or behind URLs.
        image_column: of a table.
        caption_column: of a table; of archives the field of their JSON members, where it is not the usual one.
        allow_urls: the table names URLs.
    """

    type: Literal["coco", "parquet", "table", "folder", "webdataset", "hf"]
    table: str
    images: str = ""
    image_column: str = ""
    caption_column: str = ""
    allow_urls: bool = False

    def to_source(self) -> FileSource:
        """Return the source as stages read it; what is not said has its default."""
        match self.type:
            case "coco":
                return CocoSource(annotations_uri=self.table, images_uri=self.images)
            case "parquet":
                return ParquetSource(
                    table_uri=self.table,
                    images_uri=self.images,
                    image_column=self.image_column,
                    caption_column=self.caption_column,
                )
            case "table":
                given = {"images_uri": self.images} if self.images else {}
                allowed = {"allow_urls": True} if self.allow_urls else {}
                columns = {"image_column": self.image_column, "caption_columns": (self.caption_column,)}
                return TableSource.model_validate({"table_uri": self.table, **given, **columns, **allowed})
            case "folder":
                return FolderSource(images_uri=self.table)
            case "webdataset":
                given = {"caption_field": self.caption_column} if self.caption_column else {}
                return WebDatasetSource.model_validate({"shards_uri": self.table, **given})
            case "hf":
                return HFSource(
                    dataset_uri=self.table, image_column=self.image_column, caption_columns=(self.caption_column,)
                )


class ImageLook(Frozen):
    """What the headers of some images say; sides are the shorter ones, in pixels (0: none could be opened)."""

    num_looked_at: int
    num_unreadable: int
    num_below_min_side: int
    num_too_elongated: int
    smallest_side_px: int
    median_side_px: int


class FoundSource(Frozen):
    """A source that can be used, and what it holds.

    Attributes:
        source: what a recipe names.
        num_images: images that the table lists.
        num_captions: captions that are text.
        num_missing: listed images that are not in the folder.
        num_without_caption: listed images without one.
        num_unlisted: images in the folder that the table does not list.
        look: of some of the listed images.
    """

    source: SourceDraft
    num_images: int
    num_captions: int
    num_missing: int
    num_without_caption: int
    num_unlisted: int
    look: ImageLook


class Alternative(Frozen):
    """Another reading of what was found; it is written into the recipe as a comment."""

    source: SourceDraft
    why: str


class Found(Frozen):
    """All that was found: sources that are used, other readings, and what was passed over."""

    sources: tuple[FoundSource, ...]
    alternatives: tuple[Alternative, ...] = ()
    notes: tuple[str, ...] = ()
