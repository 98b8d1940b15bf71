"""Mask2Former, as ``transformers`` has it (deformable attention in pure PyTorch), as a segmenter of COCO's classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.instances import Instance, instances_of
from softalign.detectors.loading import SEGMENTER_FIELD, loaded
from softalign.detectors.preprocessing import ImageSize, scaled_size, to_pixel_values
from softalign.errors import CompatibilityError
from softalign.geneval.labels import COCO_ALIASES, VOC_ALIASES
from softalign.geneval.prompts import CLASSES

CUDA_BATCH = 8


class Segmenter:
    """Finds instances of GenEval's classes in images; float32, the same numbers at every call."""

    def __init__(self, model: Any, device: torch.device) -> None:
        """Take a ``Mask2FormerForUniversalSegmentation`` to a device.

        Raises:
            CompatibilityError: its classes are not COCO's 80 in their order.
        """
        require_coco_classes(model.config.id2label)
        self.model = model.to(device, torch.float32).eval()
        self.device = device

    def __call__(self, images: Sequence[NDArray[np.uint8]], above: float) -> list[list[Instance]]:
        """Return the instances of each image (H, W, 3), those with a score above ``above``, best first.

        Neighbours of one size share a call on CUDA; on the CPU, where that saves nothing, every image has its own, so
        its numbers do not depend on what else is detected.
        """
        return [found for batch in self._batches(images) for found in self._detect(batch, above)]

    def _batches(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[list[NDArray[np.uint8]]]:
        size = CUDA_BATCH if self.device.type == "cuda" else 1
        for _, group in groupby(images, key=lambda image: image.shape):
            alike = list(group)
            yield from (alike[start : start + size] for start in range(0, len(alike), size))

    def _detect(self, images: Sequence[NDArray[np.uint8]], above: float) -> list[list[Instance]]:
        original = ImageSize(*images[0].shape[:2])
        with exact_arithmetic():
            pixel_values = to_pixel_values(images, self.device)
            outputs = self.model(pixel_values=pixel_values)
            padded = ImageSize(*pixel_values.shape[-2:])
            return [
                instances_of(class_logits, mask_logits, padded, scaled_size(original), original, above)
                for class_logits, mask_logits in zip(
                    outputs.class_queries_logits, outputs.masks_queries_logits, strict=True
                )
            ]


def require_coco_classes(id2label: dict[int, str]) -> None:
    """Refuse a model whose classes are not COCO's 80 objects in COCO's order.

    Raises:
        CompatibilityError: names the first class that differs.
    """
    labels = [str(id2label[index]) for index in sorted(id2label)]
    known = [VOC_ALIASES.get(label, COCO_ALIASES.get(label, label)) for label in labels]
    if known == list(CLASSES):
        return
    differing = [
        f"{index}: {label}"
        for index, label in enumerate(labels)
        if index >= len(CLASSES) or known[index] != CLASSES[index]
    ]
    raise CompatibilityError(
        "The segmenter's classes are not those that GenEval asks for.",
        expected="COCO's 80 objects in COCO's order, from 0: person to 79: toothbrush",
        found=f"{len(labels)} classes; {', '.join(differing[:3])}" if differing else f"{len(labels)} classes",
        where=SEGMENTER_FIELD,
        fix="name a Mask2Former that was trained on COCO's instances",
    )


def load_segmenter(model: str, revision: str | None, device: torch.device) -> Segmenter:
    """Return the segmenter of a local folder or a hub id.

    Raises:
        MissingInputError: it is not there.
        CompatibilityError: it is no Mask2Former with safetensors, or of other classes.
    """
    from transformers import Mask2FormerForUniversalSegmentation

    return Segmenter(
        loaded(Mask2FormerForUniversalSegmentation, model, revision, SEGMENTER_FIELD, attn_implementation="eager"),
        device,
    )
