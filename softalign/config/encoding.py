"""How a dataset is encoded, besides by which model."""

from __future__ import annotations

from pydantic import Field

from softalign.artifacts import TextMode
from softalign.config.base import StageConfig


class EncodeConfig(StageConfig):
    """What of a dataset's encodings is stored."""

    text: TextMode = Field(
        "stored",
        description="stored: text encodings are written beside the latents; online: training keeps the text encoders "
        "on its device, in float32, and runs them for each batch",
    )
