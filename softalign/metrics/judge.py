"""A vision-language model as GenEval 2's judge: how probable it finds the right answer to a question about an image.

Any model that ``transformers`` loads as image and text to text, with a chat template; the authors' is Qwen3-VL-8B
(arXiv 2512.16853). An image's questions share calls, padded on the left. Batches move last bits in float32 (measured on
the CPU with small random models of the layouts of Qwen3-VL, Qwen2.5-VL and LLaVA, 20 photographs and batches of 1, 2, 3
and 7: probabilities by at most 2.5e-8; tests allow 1e-6), more in bfloat16.

Shape legend: Q questions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from softalign.backbones.frozen_pipeline import backbone_dtype
from softalign.detectors.arithmetic import exact_arithmetic
from softalign.detectors.loading import loaded, located
from softalign.errors import CompatibilityError
from softalign.metrics.answers import first_tokens

INSTRUCTION = " Answer in one word."
"""Follows every question (the authors' script)."""
JUDGE_FIELD = "--judge"


class Judge:
    """Gives the probability of the right answers to questions about an image."""

    def __init__(self, model: Any, processor: Any, device: torch.device, batch_size: int) -> None:
        """Take a model and its processor to a device.

        Args:
            model: of ``AutoModelForImageTextToText``.
            processor: with a tokenizer and a chat template.
            device: where it computes.
            batch_size: questions of one image that share a call.
        """
        self.model = model.to(device).eval()
        self.processor = processor
        self.device = device
        self.batch_size = batch_size

    def __call__(self, image: NDArray[np.uint8], pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return how probable the right answers are, 0..1: of pairs of question and answer, for an image (H, W, 3)."""
        starts = range(0, len(pairs), self.batch_size)
        batches = (pairs[start : start + self.batch_size] for start in starts)
        return list(chain.from_iterable(self._ask(image, batch) for batch in batches))

    def _ask(self, image: NDArray[np.uint8], pairs: Sequence[tuple[str, str]]) -> list[float]:
        probabilities_QV = self._first_token(image, [question for question, _ in pairs]).double().softmax(dim=-1)
        return [
            float(row_V[list(first_tokens(self.processor.tokenizer, answer))].sum())
            for row_V, (_, answer) in zip(probabilities_QV, pairs, strict=True)
        ]

    def _first_token(self, image: NDArray[np.uint8], questions: Sequence[str]) -> Float[torch.Tensor, "Q V"]:
        """Return the logits of the answers' first token as the model gives them, whatever its sampling settings are."""
        picture = Image.fromarray(image)
        conversations = [_conversation(picture, question + INSTRUCTION) for question in questions]
        inputs = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        ).to(self.device, self.model.dtype)
        with exact_arithmetic():
            output = self.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
        logits: torch.Tensor = output.logits[0]
        return logits.cpu()


def _conversation(picture: Image.Image, text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": text}]}]


def load_judge(model: str, revision: str | None, device: torch.device, batch_size: int) -> Judge:
    """Return the judge of a local folder or a hub id: float32 on the CPU, bfloat16 on CUDA.

    Raises:
        MissingInputError: it is not there.
        CompatibilityError: it is no such model with safetensors, or has no chat template.
    """
    from transformers import AutoModelForImageTextToText

    place = located(model, revision, JUDGE_FIELD, "judge")
    processor = _load_processor(place, model, revision)
    dtype = backbone_dtype(device)
    made = loaded(AutoModelForImageTextToText, model, revision, JUDGE_FIELD, of="judge", dtype=dtype)
    return Judge(made, processor, device, batch_size)


def _load_processor(place: str, model: str, revision: str | None) -> Any:
    """Return a model's processor for images alone, with Pillow: the same pixels with and without torchvision."""
    from transformers import PROCESSOR_MAPPING, AutoConfig

    try:
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
        kind: Any = PROCESSOR_MAPPING[type(config)]
        parts = [name for name in kind.get_attributes() if name != "video_processor"]
        of_images: Any = type(kind.__name__, (kind,), {"get_attributes": classmethod(lambda cls: parts)})
        processor = of_images.from_pretrained(place, revision=revision, backend="pil", trust_remote_code=False)
        if processor.chat_template is None or processor.tokenizer.pad_token is None:
            raise ValueError("no chat template" if processor.chat_template is None else "no padding token")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise CompatibilityError(
            "The judge's processor cannot be loaded.",
            expected="a chat model of images and text in transformers' layout, with tokenizer, image processor and "
            "chat template",
            found=(str(error).strip() or type(error).__name__).splitlines()[0],
            where=f"{JUDGE_FIELD}: {model}",
            fix="name a whole model, such as Qwen/Qwen3-VL-8B-Instruct or a folder of it",
        ) from error
    return processor
