"""Sources, filters and shards."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, model_validator

from softalign.artifacts import Frozen
from softalign.config.base import Count, Name, Positive, Ratio, StageConfig
from softalign.config.captions import CaptionFilterConfig
from softalign.config.model_filters import ModelFilterConfig

DEFAULT_IMAGE_QUALITY = 95
Weight = Annotated[
    float,
    Field(ge=0.001, le=1000.0, description="how often an epoch of training draws each of its images, on average"),
]
WEIGHTS = ("weight", "caption_weights")
"""Fields of a source that say how often it is drawn, not what it holds."""


class ShapesSource(Frozen):
    """Scenes of the embedded world, rendered to PNG files with a captions table, then read like any other source."""

    type: Literal["shapes"] = Field("shapes", description="scenes of the embedded world, rendered by this library")
    num_scenes: Count = Field(1200, description="images to render")
    captions_per_scene: Count = Field(2, description="captions of each image")
    incomplete_share: Ratio = Field(0.1, description="share of the images that hold objects which no caption names")
    wrong_share: Ratio = Field(0.05, description="share of the captions that state one wrong fact")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="of scenes and captions")
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.incomplete_share + self.wrong_share > 1.0:
            raise ValueError("incomplete_share and wrong_share add up to more than 1")
        return self


class HttpConfig(Frozen):
    """How images behind URLs are fetched, and tables and archives that a source names by URLs."""

    timeout_s: Positive = Field(30.0, description="seconds that one try of one image, or each MiB of a table, may take")
    max_tries: Count = Field(3, description="tries of a file whose server is busy, slow or breaks off")
    max_per_host: Count = Field(4, description="requests at once to one host, in each process that reads images")
    allow_private_addresses: bool = Field(
        False, description="whether addresses of this machine and of private networks are fetched from"
    )
    max_table_bytes: Count = Field(4 * 2**30, description="larger tables and archives are not fetched")


class CocoSource(Frozen):
    """A COCO captions file (``images``, ``annotations``) and its image folder."""

    type: Literal["coco"] = Field("coco", description="a COCO captions file and its image folder")
    annotations_uri: str = Field(description="path or URI of the captions file (JSON with images and annotations)")
    images_uri: str = Field(description="folder or URI that the file's names are relative to")
    http: HttpConfig = Field(HttpConfig(), description="how what lies behind URLs is fetched")
    weight: Weight = 1.0


class ParquetSource(Frozen):
    """A Parquet table: image paths relative to ``images_uri`` or images as bytes, and captions."""

    type: Literal["parquet"] = Field("parquet", description="a Parquet table")
    table_uri: str = Field(description="path or URI of the table: a file, a folder of parts, or a glob")
    images_uri: str = Field(description="folder or URI that the table's image paths are relative to")
    image_column: str = Field("file_name", description="the column of image paths, or of images as bytes")
    caption_column: str = Field("caption", description="the column of captions: text, or lists of texts")
    http: HttpConfig = Field(HttpConfig(), description="how what lies behind URLs is fetched")
    weight: Weight = 1.0


TableOrHF = TypeVar("TableOrHF", "TableSource", "HFSource")
CaptionColumns = Annotated[tuple[str, ...], Field(min_length=1)]
CaptionWeights = Annotated[
    tuple[Weight, ...],
    Field(
        description="one for each caption column: how often each of its captions is drawn, relative to the others of "
        "its image; empty: all alike"
    ),
]


def _with_fitting_weights(source: TableOrHF) -> TableOrHF:
    if source.caption_weights and len(source.caption_weights) != len(source.caption_columns):
        raise ValueError(
            f"caption_weights: {len(source.caption_weights)} weights for {len(source.caption_columns)} "
            "caption_columns; give one for each"
        )
    return source


class TableSource(Frozen):
    """A table in Parquet, Arrow, CSV, TSV or JSON lines, plain or compressed (.gz, .zst): a file, parts, or a glob."""

    type: Literal["table"] = Field("table", description="a table: .parquet, .arrow, .csv, .tsv, .jsonl; also .gz, .zst")
    table_uri: str = Field(
        description="path or URI of the table: a file, a folder of parts, a glob, or a range such as {000..012}"
    )
    images_uri: str | None = Field(
        None,
        description="folder or URI that image paths are relative to; `null`: images are in the table or behind URLs",
    )
    image_column: str = Field("file_name", description="the column of image paths or URLs, or of images as bytes")
    caption_columns: CaptionColumns = Field(
        ("caption",), description="the columns of captions: text, or lists of texts; all are kept"
    )
    caption_weights: CaptionWeights = ()
    allow_urls: bool = Field(False, description="whether URLs in the image column are fetched")
    http: HttpConfig = Field(HttpConfig(), description="how what lies behind URLs is fetched")
    weight: Weight = 1.0

    _check_weights = model_validator(mode="after")(_with_fitting_weights)


class FolderSource(Frozen):
    """Images with a file of the same name beside each: ``.txt`` or ``.caption`` (one caption), or ``.json``."""

    type: Literal["folder"] = Field("folder", description="images with text files of the same names beside them")
    images_uri: str = Field(description="folder or URI of the images and their captions; folders below it too")
    caption_field: str = Field("caption", description="of the .json files: what holds a caption, or a list of them")
    weight: Weight = 1.0


class WebDatasetSource(Frozen):
    """Tar files of the WebDataset layout: members of one name are a sample, an image with ``.txt`` or ``.json``."""

    type: Literal["webdataset"] = Field("webdataset", description="tar files with images and captions")
    shards_uri: str = Field(
        description="path or URI of the tars: a file, a folder, a glob, or a range such as {000..012}; also .gz, .zst"
    )
    caption_field: str = Field("caption", description="of the .json members: what holds a caption, or a list of them")
    http: HttpConfig = Field(HttpConfig(), description="how what lies behind URLs is fetched")
    weight: Weight = 1.0


class HFSource(Frozen):
    """A Hugging Face dataset saved to disk (``save_to_disk``): its Arrow files, images as bytes in them."""

    type: Literal["hf"] = Field("hf", description="a Hugging Face dataset saved to disk")
    dataset_uri: str = Field(description="folder or URI of the dataset (with state.json); of several splits, of one")
    image_column: str = Field("image", description="the column of images")
    caption_columns: CaptionColumns = Field(
        ("caption",), description="the columns of captions: text, or lists of texts; all are kept"
    )
    caption_weights: CaptionWeights = ()
    http: HttpConfig = Field(HttpConfig(), description="how what lies behind URLs is fetched")
    weight: Weight = 1.0

    _check_weights = model_validator(mode="after")(_with_fitting_weights)


FileSource = CocoSource | ParquetSource | TableSource | FolderSource | WebDatasetSource | HFSource
"""Sources that somebody hands over; what they hold may change."""
Source = Annotated[ShapesSource | FileSource, Field(discriminator="type")]


class FilterConfig(Frozen):
    """What a sample must fulfil; every rejection is counted under the filter's name."""

    min_side_px: Count = Field(32, description="images with a shorter side, in pixels, are left out")
    max_aspect_ratio: Annotated[float, Field(ge=1.0)] = Field(
        3.0, description="images whose longer side is above this multiple of the shorter one are left out"
    )
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)] = Field(
        89_478_485, description="images of more pixels (width times height, by the file's header) are left out"
    )
    max_file_bytes: Count = Field(134_217_728, description="image files of more bytes are left out")
    drop_animated: bool = Field(False, description="leave out files with several pictures; else their first is taken")
    min_caption_chars: Count = Field(3, description="shorter captions, in characters, are left out")
    max_caption_chars: Count = Field(1000, description="longer captions, in characters, are left out")
    drop_exact_duplicates: bool = Field(
        True, description="of image files with equal bytes one is kept, with the captions of all"
    )
    max_hash_distance: Annotated[int, Field(ge=-1, le=64)] = Field(
        2,
        description="perceptual hash bits that may differ between duplicates; -1: no perceptual deduplication, and "
        "without exclude_images no hashes (the index has zeros)",
    )
    exclude_images: tuple[str, ...] = Field(
        (), description="folders of evaluation images; images within max_hash_distance of one of them are left out"
    )
    captions: CaptionFilterConfig = Field(
        CaptionFilterConfig(), description="what is mended in captions, and more that is left out"
    )
    models: tuple[ModelFilterConfig, ...] = Field(
        (), description="filters that ask a model, in their order, of what passed the others"
    )

    @property
    def asks_for_hashes(self) -> bool:
        """Whether a filter compares perceptual hashes."""
        return self.max_hash_distance >= 0 or bool(self.exclude_images)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if self.min_caption_chars > self.max_caption_chars:
            raise ValueError("min_caption_chars is above max_caption_chars: no caption could pass")
        return self


class CurationConfig(StageConfig):
    """Sources -> filters -> shards."""

    name: Name = Field(description="of the dataset: lower-case letters, digits and dashes")
    sources: Annotated[tuple[Source, ...], Field(min_length=1)] = Field(
        description="captions tables with their images, read in this order"
    )
    caption_changes: tuple[str, ...] = Field(
        (), description="files of changed captions that `softalign refresh` wrote, applied to the sources in this order"
    )
    filters: FilterConfig = Field(FilterConfig(), description="what an image and its captions must fulfil")
    val_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.05, description="share of the images that is held out for validation, chosen by hash"
    )
    samples_per_shard: Count = Field(512, description="images in each shard of the dataset")
    captions_in_tars: bool = Field(
        True,
        description="whether the shards' tars hold captions; false: their Parquet indexes alone do, so that other "
        "captions rewrite no tar",
    )
    image_format: Literal["keep", "jpg", "png", "webp"] = Field(
        "keep",
        description="keep: the files' own bytes, all under the extension of the first image's format; "
        "else every image is decoded and saved anew: upright, in sRGB, without metadata",
    )
    image_quality: Annotated[int, Field(ge=1, le=100)] | None = Field(
        None, description=f"of images that are saved as jpg or webp; null: {DEFAULT_IMAGE_QUALITY}"
    )
    image_size_px: Count | None = Field(
        None,
        description="shorter side, in pixels, that larger images are reduced to where they are saved anew; "
        "null: all keep their size",
    )

    @model_validator(mode="after")
    def _check_format(self) -> Self:
        if self.image_quality is not None and self.image_format not in {"jpg", "webp"}:
            raise ValueError(f"image_quality: it has no effect with image_format {self.image_format!r}; remove it")
        if self.image_size_px is not None and self.image_format == "keep":
            raise ValueError("image_size_px: it has no effect with image_format 'keep'; set image_format, such as jpg")
        if self.image_size_px is not None and self.image_size_px < self.filters.min_side_px:
            raise ValueError("image_size_px is below filters.min_side_px: no reduced image could pass")
        return self
