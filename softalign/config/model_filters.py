"""Filters that ask a model: how well a caption fits an image, and what kind of image it is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from softalign.artifacts import Frozen
from softalign.config.base import Ratio


class ClipScoreFilter(Frozen):
    """A CLIP model's cosine of image and caption; captions below the limit are left out."""

    type: Literal["clip_score"] = Field("clip_score", description="cosine of image and caption by a CLIP model")
    model: str = Field(description="a CLIP model of transformers: a folder, or a hub id")
    revision: str | None = Field(None, description="of a hub model: a commit, branch or tag; null: the newest")
    min_score: Annotated[float, Field(ge=-1.0, le=1.0)] = Field(
        description="captions with a lower cosine are left out; 0.2 to 0.3 is common with ViT-B/32"
    )


class ImageClassFilter(Frozen):
    """An image classifier's probability of some classes: of what is not safe for work, or of what is not beautiful."""

    type: Literal["image_class"] = Field("image_class", description="probability of classes by an image classifier")
    model: str = Field(description="an image classification model of transformers: a folder, or a hub id")
    revision: str | None = Field(None, description="of a hub model: a commit, branch or tag; null: the newest")
    labels: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="the model's names of the classes whose images are left out, such as nsfw"
    )
    max_probability: Ratio = Field(0.5, description="images whose classes add up to more are left out")


ModelFilterConfig = Annotated[ClipScoreFilter | ImageClassFilter, Field(discriminator="type")]
