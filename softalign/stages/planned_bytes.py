"""About how many bytes each stage of a recipe will write, without doing any of its work."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from softalign.artifacts import DatasetManifest
from softalign.backbones.locating import model_folder
from softalign.backbones.sizes import model_sizes
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
from softalign.config.families import KNOWN_MODELS
from softalign.config.recipe import Recipe
from softalign.data.curation.listing import files_below
from softalign.data.encoding.budget import EncodedBytes, over_budget
from softalign.errors import DataError, MissingInputError
from softalign.stages.published import Published

if TYPE_CHECKING:
    from softalign.data.curation.samples import ListedSample

FLOAT_BYTES = 4
SHAPES_PNG_BYTES = 700
"""Mean size of a rendered scene's PNG (measured: 200 scenes)."""
GENERATED_BYTES_PER_PIXEL = 2
"""Typical PNG size of a generated photograph (assumption; for planning only)."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many images and captions a source announces."""

    images: int
    captions: int


def _source_counts(source: Source) -> _Counts | None:
    """Return what a source announces; None of tars, whose samples are not counted before they are read.

    Of tables that hold images, and of folders, the captions are as many for each image as the first one has. Of a
    source that cannot be read nothing is said here: ``curate`` says why.
    """
    if isinstance(source, ShapesSource):
        return _Counts(source.num_scenes, source.num_scenes * source.captions_per_scene)
    if isinstance(source, WebDatasetSource):
        return None
    try:
        return _announced(source)
    except (DataError, MissingInputError):
        return None


def _announced(source: FileSource) -> _Counts | None:
    from softalign.data.curation.samples import HeldImage
    from softalign.data.curation.sources import reader_of

    numbers: list[int] = []
    with closing(_generator(reader_of(source).samples("", numbers.append))) as samples:
        first = next(samples, None)
        if first is None:
            return _Counts(0, 0)
        if isinstance(source, FolderSource) or isinstance(first.images, HeldImage):
            return _Counts(numbers[0], numbers[0] * len(first.captions)) if numbers else None
        num_images = num_captions = 0
        for sample in chain([first], samples):
            num_images += bool(sample.captions)
            num_captions += len(sample.captions)
    return _Counts(num_images, num_captions)


def _generator(samples: Iterator[ListedSample]) -> Generator[ListedSample]:
    """Make an iterator one that can be closed: reading ahead ends with it."""
    yield from samples


def unknown_bytes(_recipe: Recipe, _published: Published) -> None:
    """Say nothing: what the stage writes depends on what it finds."""


def curate_bytes(recipe: Recipe, _published: Published) -> int | None:
    """Return about how many bytes ``curate`` writes: the sources' images; None where that is not known before."""
    if recipe.curation.image_format != "keep":
        return None
    total = 0
    for source in recipe.curation.sources:
        if isinstance(source, ShapesSource):
            total += source.num_scenes * SHAPES_PNG_BYTES
            continue
        uri = _images_uri(source)
        if uri is None:
            return None
        total += sum(size or 0 for _, size in files_below(uri))
    return total


def _images_uri(source: FileSource) -> str | None:
    """Return the folder that a source's images lie in; None where they are in its table or archives, or behind URLs."""
    match source:
        case CocoSource() | ParquetSource() | FolderSource() | TableSource():
            return source.images_uri
        case WebDatasetSource() | HFSource():
            return None


def encode_bytes(recipe: Recipe, published: Published) -> int | None:
    """Return how many bytes ``encode`` writes, at most; None where a source does not say how much it holds.

    Of images and captions that curation will leave out nothing is known yet, nor of encodings that the store has.
    """
    dataset = published.find(DatasetManifest)
    if dataset is not None:
        counts = _Counts(dataset.num_samples, dataset.num_captions)
    else:
        announced = [_source_counts(source) for source in recipe.curation.sources]
        known = [count for count in announced if count is not None]
        if len(known) < len(announced):
            return None
        counts = _Counts(sum(count.images for count in known), sum(count.captions for count in known))
    num_texts = 1 + counts.captions * (1 + recipe.train.negatives.num_hard)  # the empty one besides
    num_texts = num_texts if recipe.encode.text == "stored" else 0
    return EncodedBytes(counts.images, num_texts, model_sizes(recipe.backbone)).total


def encode_note(recipe: Recipe, published: Published, predicted_bytes: int | None) -> str:
    """Return what is to be said of the predicted size of ``encode``."""
    if predicted_bytes is None:
        return "its size is known after curate: a source does not say how many images it holds"
    notes = [] if published.find(DatasetManifest) is not None else ["an estimate by what the sources list"]
    if recipe.backbone.model not in KNOWN_MODELS and model_folder(recipe.backbone) is None:
        notes.append(f"by the sizes of the published models of the family {recipe.backbone.family}")
    if over_budget(predicted_bytes, recipe.runtime):
        notes.append("above runtime.encode_budget_gb, so refused unless the store holds enough of it")
    return "; ".join(notes)


def no_note(_recipe: Recipe, _published: Published, _predicted_bytes: int | None) -> str:
    """Say nothing of a stage's size."""
    return ""


def train_bytes(recipe: Recipe, _published: Published) -> int | None:
    """Return about how many bytes ``train`` writes: tokens three times, and a row a step."""
    tokens = recipe.train.soft_tokens
    width = (tokens.num_layers or 1) * model_sizes(recipe.backbone).token_width
    objective = recipe.train.objective
    banks = 2 if objective.name == "agsm" and objective.banks == "dual" else 1
    values = (banks * tokens.num_soft_tokens + tokens.num_timestep_bins) * width
    metrics_bytes_per_step = 300
    return 3 * values * FLOAT_BYTES + recipe.train.num_steps * metrics_bytes_per_step


def evaluate_bytes(recipe: Recipe, _published: Published) -> int | None:
    """Return about how many bytes of images one arm of ``evaluate`` writes; in rounds at most.

    A round publishes the images of the rounds before it again, so that it stands alone.
    """
    from softalign.evaluation.suites import suite_prompts

    evaluate = recipe.evaluate
    side_px = evaluate.side_px(recipe.backbone)
    image_bytes = SHAPES_PNG_BYTES if evaluate.is_embedded else GENERATED_BYTES_PER_PIXEL * side_px**2
    rounds = evaluate.images_per_prompt
    number = rounds * (rounds + 1) // 2 if evaluate.is_undecided else evaluate.num_rounds
    return len(suite_prompts(evaluate)) * number * image_bytes
