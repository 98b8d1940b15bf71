"""The detector of photographs: objects by Mask2Former, each object's colour by CLIP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from softalign.config.evaluation import DetectorConfig
from softalign.detectors.colors import ColorClassifier, crop_of, load_color_classifier
from softalign.detectors.instances import Instance
from softalign.detectors.segmenter import Segmenter, load_segmenter
from softalign.detectors.self_test import require_sound
from softalign.geneval.decision import SCORE_THRESHOLD
from softalign.geneval.detections import Detection
from softalign.geneval.prompts import CLASSES


class PhotographDetector:
    """The detector as a callable over images, as ``softalign.geneval`` expects."""

    def __init__(self, segmenter: Segmenter, name_colors: ColorClassifier) -> None:
        """Take the two models."""
        self.segmenter = segmenter
        self.name_colors = name_colors

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Detection]]:
        """Return the detections of each uint8 image (H, W, 3), best first: those that a decision can count.

        That is a score above 0.3, the lower of GenEval's two thresholds.
        """
        found_in = self.segmenter(images, above=SCORE_THRESHOLD)
        return [self._named(image, found) for image, found in zip(images, found_in, strict=True)]

    def _named(self, image: NDArray[np.uint8], found: Sequence[Instance]) -> list[Detection]:
        detections = []
        for instance in found:
            name = CLASSES[instance.class_index]
            crop = crop_of(image, instance.box, instance.mask)
            [color] = self.name_colors([crop], name)
            detections.append(Detection(class_name=name, score=min(instance.score, 1.0), box=instance.box, color=color))
        return detections


def load_detector(config: DetectorConfig, device: torch.device) -> PhotographDetector:
    """Return the detector of a configuration, loaded and tested.

    Raises:
        MissingInputError: a model is not there.
        CompatibilityError: a model is not of its kind, or of other classes.
        IntegrityError: the self-test failed: its scores would be wrong.
    """
    detector = PhotographDetector(
        load_segmenter(config.segmenter, config.segmenter_revision, device),
        load_color_classifier(config.color_classifier, config.color_classifier_revision, device),
    )
    require_sound(detector.segmenter, detector.name_colors)
    return detector
