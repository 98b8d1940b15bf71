"""The cosine of an image and a text in CLIP's common space: float32, one image a call, so nothing beside it counts.

Shape legend: D width of the common space.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from softalign.backbones.locating import reachable_model
from softalign.config.metrics import MetricConfig
from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.colors import to_square
from softalign.detectors.loading import loaded
from softalign.errors import CompatibilityError

_TOKENIZER_FILENAME = "tokenizer_config.json"


class ClipCosine:
    """Compares images with texts; what is longer than CLIP reads (77 tokens) is cut off, as everywhere."""

    def __init__(self, config: MetricConfig, device: torch.device) -> None:
        """Load a ``CLIPModel`` and its tokenizer.

        Raises:
            MissingInputError: one is not there.
            CompatibilityError: it is no CLIP with safetensors.
        """
        from transformers import CLIPModel

        field = f"{config.name}={config.model}"
        clip = loaded(
            CLIPModel, config.model, config.revision, field, of=f"metric {config.name}", attn_implementation="eager"
        )
        self.model = clip.to(device).eval()
        self.tokenizer = _load_tokenizer(config, field)
        self._max_tokens = int(clip.config.text_config.max_position_embeddings)
        self.device = device
        self._texts: dict[str, Float[torch.Tensor, " D"]] = {}

    @property
    def logit_scale(self) -> float:
        """By how much CLIP stretches cosines to logits."""
        return float(self.model.logit_scale.detach().exp())

    def __call__(self, image: NDArray[np.uint8], text: str) -> float:
        """Return the cosine of a uint8 image (H, W, 3) and a text."""
        square = to_square(Image.fromarray(image), self.model.config.vision_config.image_size)
        with exact_arithmetic():
            pixels = torch.from_numpy(square)[None].to(self.device)
            image_D = self.model.get_image_features(pixel_values=pixels).pooler_output[0]
            return float(torch.nn.functional.normalize(image_D, dim=0) @ self._text(text))

    def _text(self, text: str) -> Float[torch.Tensor, " D"]:
        if text not in self._texts:
            tokens = self.tokenizer(text, truncation=True, max_length=self._max_tokens, return_tensors="pt").to(
                self.device
            )
            text_D = self.model.get_text_features(**tokens).pooler_output[0]
            self._texts[text] = torch.nn.functional.normalize(text_D, dim=0)
        return self._texts[text]


def _load_tokenizer(config: MetricConfig, field: str) -> Any:
    from transformers import AutoTokenizer

    named = config.tokenizer or config.model
    revision = None if config.tokenizer else config.revision
    place = reachable_model(named, revision, filename=_TOKENIZER_FILENAME, field=field, role="metric's tokenizer")
    try:
        if Path(place).is_dir() and not (Path(place) / _TOKENIZER_FILENAME).is_file():
            raise OSError(f"no {_TOKENIZER_FILENAME}")  # an empty tokenizer would be made up
        return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompatibilityError(
            f"The metric {config.name} has no tokenizer.",
            expected="CLIP's tokenizer beside the model, or a folder or hub id that has it",
            found=(str(error).strip() or type(error).__name__).splitlines()[0],
            where=named,
            fix=f"name one as well: --metric {config.name}=MODEL,TOKENIZER; in recipes tokenizer, in evaluate.metrics",
        ) from error
