"""CLIP as GenEval's colour classifier: zero-shot over ten colours, on the object's crop with a grey background.

Shape legend: K colours, D width of CLIP's common space, B crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.instances import Box
from softalign.detectors.loading import COLORS_FIELD, loaded, located
from softalign.geneval.prompts import COLORS

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
"""GenEval's, each filled with a colour and the object's class."""
BACKGROUND = "#999"
MEAN_RGB = (0.48145466, 0.4578275, 0.40821073)
STD_RGB = (0.26862954, 0.26130258, 0.27577711)
"""CLIP's own normalisation."""


def crop_of(image: NDArray[np.uint8], box: Box, mask: NDArray[np.bool_]) -> Image.Image:
    """Return the box of an image (H, W, 3), grey outside the mask (H, W)."""
    picture = Image.fromarray(image)
    blank = Image.new("RGB", picture.size, color=BACKGROUND)
    return Image.composite(picture, blank, Image.fromarray(mask)).crop(box)


def to_square(crop: Image.Image, side_px: int) -> Float[np.ndarray, "3 side side"]:
    """Return a crop as CLIP sees it: its short side scaled (bicubic), the middle square of it, normalised."""
    width, height = crop.size
    short = min(width, height)
    scaled = crop.resize(
        (int(side_px * width / short), int(side_px * height / short)), resample=Image.Resampling.BICUBIC
    )
    left, top = (round((side - side_px) / 2) for side in scaled.size)
    pixels = np.asarray(scaled.crop((left, top, left + side_px, top + side_px)), dtype=np.float32) / 255
    mean, std = np.array(MEAN_RGB, dtype=np.float32), np.array(STD_RGB, dtype=np.float32)
    return np.ascontiguousarray(((pixels - mean) / std).transpose(2, 0, 1))


class ColorClassifier:
    """Names the colour of objects; float32, one crop at a time, so no answer depends on another crop."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        """Take a ``CLIPModel`` and its tokenizer to a device."""
        self.model = model.to(device, torch.float32).eval()
        self.tokenizer = tokenizer
        self.device = device
        self._texts: dict[str, Float[torch.Tensor, "K D"]] = {}

    def __call__(self, crops: Sequence[Image.Image], class_name: str) -> list[str]:
        """Return the colour of each crop of an object of a class."""
        side_px = self.model.config.vision_config.image_size
        return [self._color_of(to_square(crop, side_px), class_name) for crop in crops]

    def _color_of(self, pixels: NDArray[np.float32], class_name: str) -> str:
        texts_KD = self.text_embeddings(class_name)
        with exact_arithmetic():
            pixel_values = torch.from_numpy(pixels)[None].to(self.device)
            image_D = self.model.get_image_features(pixel_values=pixel_values).pooler_output[0]
            similarities_K = texts_KD @ torch.nn.functional.normalize(image_D, dim=0)
        return COLORS[int(similarities_K.argmax())]

    def text_embeddings(self, class_name: str) -> Float[torch.Tensor, "K D"]:
        """Return each colour's embedding for a class: the mean of its normalised templates', of length 1."""
        if class_name not in self._texts:
            texts = [template.format(color=color, name=class_name) for color in COLORS for template in TEMPLATES]
            with exact_arithmetic():
                tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
                embeddings = self.model.get_text_features(
                    input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
                ).pooler_output
                by_color = torch.nn.functional.normalize(embeddings, dim=-1).view(len(COLORS), len(TEMPLATES), -1)
                self._texts[class_name] = torch.nn.functional.normalize(by_color.mean(dim=1), dim=-1)
        return self._texts[class_name]


def load_color_classifier(model: str, revision: str | None, device: torch.device) -> ColorClassifier:
    """Return the colour classifier of a local folder or a hub id.

    Raises:
        MissingInputError: it is not there.
        CompatibilityError: it is no CLIP with safetensors.
    """
    from transformers import AutoTokenizer, CLIPModel

    clip = loaded(CLIPModel, model, revision, COLORS_FIELD, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(located(model, revision, COLORS_FIELD), revision=revision)
    return ColorClassifier(clip, tokenizer, device)
