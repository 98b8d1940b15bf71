"""What an image is to a distance between sets: the features of Inception, or of a vision model of ``transformers``.

Shape legend: B images, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.loading import loaded, located
from softalign.errors import CompatibilityError
from softalign.metrics.inception import Inception
from softalign.metrics.reference import label_of, maker_of, weights_file

FEATURES_FIELD = "--features"


class FeatureExtractor(Protocol):
    """Features of images, float32.

    Attributes:
        label: whose they are: ``inception`` with FID's published weights alone, else the model's name.
        maker: a digest of what makes them.
    """

    label: str
    maker: str

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Float[np.ndarray, "B D"]:
        """Return the features of uint8 images (H, W, 3)."""
        ...


class InceptionFeatures:
    """The 2048 features that FID and KID are defined by; images are resized by the network's own rule."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        """Load a weights' file: safetensors, or a PyTorch file of tensors alone.

        Raises:
            CompatibilityError: it has other weights than the network, or is more than tensors.
        """
        self.maker = maker_of(str(weights), FEATURES_FIELD)
        self.label = label_of(str(weights), self.maker)
        self.model = Inception()
        try:
            self.model.load_state_dict(_read_state(weights))
        except Exception as error:  # what damaged files and foreign pickles raise is not bounded
            raise CompatibilityError(
                "The weights of FID's Inception network cannot be loaded.",
                expected="torch-fidelity's weights-inception-2015-12-05-6726825d.pth, or that of pytorch-fid",
                found=(str(error).strip() or type(error).__name__).splitlines()[0],
                where=str(weights),
                fix="download that file anew; files with anything but tensors in them are not read",
            ) from error
        self.model.to(device).eval()
        self.device = device

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Float[np.ndarray, "B D"]:
        """Return the features, an image a call: none depends on another."""
        with exact_arithmetic():
            rows = [self.model(torch.from_numpy(image).permute(2, 0, 1)[None].to(self.device)) for image in images]
            found: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
        return found


class ModelFeatures:
    """The pooled output of a vision model: CLIP's image embedding, DINOv2's class token, and so on."""

    def __init__(self, model: str, device: torch.device) -> None:
        """Load a model and its image processor.

        Raises:
            MissingInputError: it is not there.
            CompatibilityError: it is no model of images with safetensors.
        """
        from transformers import AutoImageProcessor, AutoModel

        self.maker = maker_of(model, FEATURES_FIELD)
        self.label = label_of(model, self.maker)
        self.device = device
        self.model = loaded(AutoModel, model, None, FEATURES_FIELD, of="features").to(device).eval()
        try:
            self.processor = AutoImageProcessor.from_pretrained(
                located(model, None, FEATURES_FIELD, "features"), backend="pil", trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
            raise self._unfit((str(error).strip() or type(error).__name__).splitlines()[0]) from error

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Float[np.ndarray, "B D"]:
        """Return the features, an image a call: none depends on another.

        Raises:
            CompatibilityError: the model has no pooled output of images.
        """
        with exact_arithmetic():
            rows = [self._pooled(Image.fromarray(image)) for image in images]
            found: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
        return found

    def _pooled(self, image: Image.Image) -> Float[torch.Tensor, "1 D"]:
        inputs = self.processor(images=image, return_tensors="pt").to(self.device)
        of_images: Any = getattr(self.model, "get_image_features", self.model)
        pooled = getattr(of_images(pixel_values=inputs["pixel_values"]), "pooler_output", None)
        if pooled is None or pooled.ndim != 2:
            raise self._unfit(f"{type(self.model).__name__} without one")
        features: torch.Tensor = pooled.float()
        return features

    def _unfit(self, found: str) -> CompatibilityError:
        return CompatibilityError(
            "This model gives no features of images.",
            expected="a vision model with an image processor and a pooled output, such as CLIP or DINOv2",
            found=found,
            where=f"{FEATURES_FIELD}: {self.label}",
            fix="name another model, or the weights' file of FID's Inception network",
        )


def load_features(model: str, device: torch.device) -> FeatureExtractor:
    """Return the features of a weights' file of Inception, or of a model's folder or hub id.

    Raises:
        MissingInputError: it is not there.
        CompatibilityError: it cannot be used.
    """
    weights = weights_file(model, FEATURES_FIELD)
    return ModelFeatures(model, device) if weights is None else InceptionFeatures(weights, device)


def _read_state(weights: Path) -> dict[str, torch.Tensor]:
    if weights.suffix.lower() == ".safetensors":
        from safetensors.torch import load_file

        tensors: dict[str, torch.Tensor] = load_file(weights)
        return tensors
    state: dict[str, torch.Tensor] = torch.load(weights, map_location="cpu", weights_only=True)
    return state
