"""Filters that ask a model about an image and its captions, behind one interface; models are those of transformers.

An image is judged alone with its captions, in float32: what becomes of it does not depend on its neighbours. Another
device or another version of the libraries may differ in last bits, and so decide otherwise at the very limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from PIL import Image

from softalign.backbones.frozen_pipeline import resolve_device
from softalign.config.curation import FilterConfig
from softalign.config.model_filters import ClipScoreFilter, ImageClassFilter, ModelFilterConfig
from softalign.config.runtime import Runtime
from softalign.data.curation.caption_repairs import meant
from softalign.data.curation.images import decoded_rgb
from softalign.data.curation.names import shown_caption
from softalign.data.curation.rejections import Flaw, Rejection
from softalign.data.curation.samples import ListedSample, Sample
from softalign.errors import ConfigError, MissingInputError


@dataclass(frozen=True, slots=True)
class ModelVerdict:
    """What a model says: why the image is refused, and for each caption why it is; None where it is not."""

    image: Flaw | None
    captions: tuple[Flaw | None, ...]


class ModelFilter(Protocol):
    """Judges images with their captions; several threads call it at once."""

    def judge(self, image: Image.Image, captions: tuple[str, ...]) -> ModelVerdict:
        """Return what is wrong with an upright sRGB image or its captions."""
        ...


class ClipScore:
    """See ``ClipScoreFilter``.

    Args:
        config: model and limit.
        device: where it is computed.

    Raises:
        MissingInputError: the model is not there.
        ConfigError: it is no CLIP model.
    """

    def __init__(self, config: ClipScoreFilter, device: torch.device) -> None:
        from transformers import AutoProcessor, CLIPModel

        self._min_score, self._device = config.min_score, device
        self._model: Any = _loaded(CLIPModel, config).eval().to(device)
        self._processor: Any = _loaded(AutoProcessor, config)

    def judge(self, image: Image.Image, captions: tuple[str, ...]) -> ModelVerdict:
        """Refuse captions whose cosine with the image is below the limit."""
        flaws = (
            Flaw("caption_clip_score", f"{score:.3f}") if score < self._min_score else None
            for score in self.scores(image, captions)
        )
        return ModelVerdict(None, tuple(flaws))

    @torch.no_grad()
    def scores(self, image: Image.Image, captions: tuple[str, ...]) -> tuple[float, ...]:
        """Return the cosine of each caption, cut at the text encoder's length, with the image."""
        inputs = self._processor(
            text=list(captions), images=image, return_tensors="pt", padding="max_length", truncation=True
        )
        found = self._model(**inputs.to(self._device))
        return tuple((found.text_embeds @ found.image_embeds[0]).tolist())


class ImageClass:
    """See ``ImageClassFilter``.

    Args:
        config: model, classes and limit.
        device: where it is computed.

    Raises:
        MissingInputError: the model is not there.
        ConfigError: it is no image classifier, or has no such class.
    """

    def __init__(self, config: ImageClassFilter, device: torch.device) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self._config, self._device = config, device
        self._model: Any = _loaded(AutoModelForImageClassification, config).eval().to(device)
        self._processor: Any = _loaded(AutoImageProcessor, config)
        known = {str(label): int(place) for place, label in self._model.config.id2label.items()}
        if missing := [label for label in config.labels if label not in known]:
            raise ConfigError(
                "The image classifier has no such class.",
                expected=f"labels among {', '.join(sorted(known))}",
                found=", ".join(missing),
                where=f"curation.filters.models: {config.model}",
            )
        self._places = [known[label] for label in config.labels]

    def judge(self, image: Image.Image, captions: tuple[str, ...]) -> ModelVerdict:
        """Refuse images whose probability of the classes is above the limit."""
        found = self.probability(image)
        flaw = Flaw("image_class", f"{', '.join(self._config.labels)} {found:.3f}")
        return ModelVerdict(flaw if found > self._config.max_probability else None, (None,) * len(captions))

    @torch.no_grad()
    def probability(self, image: Image.Image) -> float:
        """Return the probability that the image is of one of the classes."""
        inputs = self._processor(images=image, return_tensors="pt").to(self._device)
        return float(self._model(**inputs).logits[0].softmax(0)[self._places].sum())


@dataclass(frozen=True, slots=True)
class JudgedSample:
    """A sample with the captions that every model lets pass, or None, and why others did not."""

    sample: Sample | None
    rejections: tuple[Rejection, ...]


def model_judge(config: FilterConfig, runtime: Runtime) -> Callable[[ListedSample, Sample], JudgedSample]:
    """Return the function that asks a recipe's models about a sample, which it is given as listed and as read.

    Raises:
        MissingInputError: a model is not there.
        ConfigError: a model is of another kind, or there is no such device.
    """
    device = resolve_device(runtime)
    filters: list[ModelFilter] = [
        ClipScore(model, device) if isinstance(model, ClipScoreFilter) else ImageClass(model, device)
        for model in config.models
    ]
    return lambda listed, sample: judge_sample(listed, sample, filters, repair=config.captions.repair)


def judge_sample(listed: ListedSample, sample: Sample, filters: Sequence[ModelFilter], *, repair: bool) -> JudgedSample:
    """Ask the filters in their order; what one refuses the next is not asked about.

    Args:
        listed: as the sample was listed, which says the places of its captions.
        sample: the sample.
        filters: the filters.
        repair: whether captions were mended.
    """
    rejections: list[Rejection] = []

    def refuse(flaw: Flaw, caption_index: int = -1, raw: object = "") -> None:
        named = (listed.source, listed.filename, flaw.reason, flaw.detail)
        rejections.append(Rejection(*named, caption_index, shown_caption(raw)))

    with decoded_rgb(sample.image) as image:
        for model in filters:
            verdict = model.judge(image, sample.captions)
            flaws = dict(zip(sample.captions, verdict.captions, strict=True))
            for index, raw in enumerate(listed.captions):
                if flaw := flaws.pop(meant(raw, repair=repair)[0], None):
                    refuse(flaw, index, raw)
            kept = tuple(caption for caption, flaw in zip(sample.captions, verdict.captions, strict=True) if not flaw)
            if verdict.image is not None or not kept:
                refuse(verdict.image or Flaw("no_caption_left"))
                return JudgedSample(None, tuple(rejections))
            sample = replace(sample, captions=kept)
    return JudgedSample(sample, tuple(rejections))


def _loaded(kind: Any, config: ModelFilterConfig) -> Any:
    try:
        return kind.from_pretrained(config.model, revision=config.revision)
    except OSError as error:
        raise MissingInputError(
            "A filter's model is not there.",
            expected="a folder in the layout of transformers, a cached model, or a hub that answers",
            found=str(error).strip().partition("\n")[0][:300],
            where=f"curation.filters.models: {config.model}",
        ) from error
    except (ValueError, KeyError) as error:
        raise ConfigError(
            "A filter's model is of another kind.",
            expected=f"a model for {kind.__name__}",
            found=str(error).strip().partition("\n")[0][:300],
            where=f"curation.filters.models: {config.model}",
        ) from error
