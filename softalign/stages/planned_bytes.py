"""About how many bytes each stage of a recipe will write, without doing any of its work."""

from __future__ import annotations

from softalign.artifacts import DatasetManifest
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
from softalign.config.recipe import Recipe
from softalign.data.curation.listing import files_below
from softalign.stages.published import Published

FLOAT_BYTES = 4
ENCODED_BYTES = 2
"""Encodings are stored in float16."""
SHAPES_PNG_BYTES = 700
"""Mean size of a rendered scene's PNG (measured: 200 scenes)."""
GENERATED_BYTES_PER_PIXEL = 2
"""Typical PNG size of a generated photograph (assumption; for planning only)."""


def _source_counts(source: Source) -> tuple[int, int] | None:
    """Return the numbers of images and captions a source announces; of others, neither without reading them."""
    if isinstance(source, ShapesSource):
        return source.num_scenes, source.num_scenes * source.captions_per_scene
    if isinstance(source, CocoSource):
        from softalign.data.curation.coco import read_coco

        captions = read_coco(source).captions
        return len(captions), sum(len(texts) for texts in captions.values())
    return None


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
        total += sum(size or 0 for size in files_below(uri).values())
    return total


def _images_uri(source: FileSource) -> str | None:
    """Return the folder that a source's images lie in; None where they are in its table or archives, or behind URLs."""
    match source:
        case CocoSource() | ParquetSource() | FolderSource() | TableSource():
            return source.images_uri
        case WebDatasetSource() | HFSource():
            return None


def encode_bytes(recipe: Recipe, published: Published) -> int | None:
    """Return how many bytes ``encode`` writes; None where a source's table does not say how much it lists."""
    dataset = published.find(DatasetManifest)
    if dataset is not None:
        num_samples, num_captions = dataset.num_samples, dataset.num_captions
    else:
        counts = [_source_counts(source) for source in recipe.curation.sources]
        known = [count for count in counts if count is not None]
        if len(known) < len(counts):
            return None
        num_samples, num_captions = sum(images for images, _ in known), sum(captions for _, captions in known)
    num_texts = num_captions * (1 + recipe.train.negatives.num_hard)
    sizes = model_sizes(recipe.backbone)
    return ENCODED_BYTES * (num_samples * sizes.latent + num_texts * sizes.text)


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
    """Return about how many bytes of images one arm of ``evaluate`` writes."""
    if recipe.evaluate.is_embedded:
        from softalign.shapes.suite import build_suite

        num_prompts, image_bytes = len(build_suite()), SHAPES_PNG_BYTES
    else:
        num_prompts, image_bytes = 553, GENERATED_BYTES_PER_PIXEL * recipe.evaluate.side_px(recipe.backbone) ** 2
    return num_prompts * recipe.evaluate.images_per_prompt * image_bytes
