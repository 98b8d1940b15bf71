"""A family's tiny denoiser with an adapter in it, and images with captions whose states are drawn by the text."""

import hashlib

import torch

from softalign.adapters.files import MMDiTPlacement, UNetPlacement
from softalign.config import TrainConfig
from softalign.data.captions.hard_negatives import EditedCaption
from softalign.diagnosis.images import ProbeImage
from softalign.diagnosis.subject import Subject
from softalign.method.text_states import TextStates
from tests.tiny_families import FAMILIES, drawn

CPU = torch.device("cpu")
IMAGES = tuple(
    ProbeImage(
        drawn(4, 8, 8, seed=index),
        f"{caption} dogs",
        (EditedCaption(f"four dogs, not {caption}", "count"), EditedCaption(f"{caption} cats", "object")),
    )
    for index, caption in enumerate(("two", "three"))
)


def states_of(family, prompts, dtype=torch.float64):
    """Each prompt's own random states, whatever stands beside it."""
    seeds = [int(hashlib.sha256(prompt.encode()).hexdigest()[:6], 16) for prompt in prompts]
    rows = [family.text(1, seed, dtype).tensors() for seed in seeds]
    return TextStates(*(torch.cat(column) for column in zip(*rows, strict=True)))


def tiny_subject(name, *, training=None, dtype=torch.float64, module_dtype=None, device=CPU):
    family = FAMILIES[name]
    tokens = family.tokens(2, 3, dtype).to(device)
    module = family.make_module(dtype=module_dtype or dtype).to(device)
    placement = UNetPlacement(blocks=("down", "mid"), position="after_bos")
    if family.layers:
        placement = MMDiTPlacement(num_layers=family.layers[0], position="append")
    return Subject(
        denoiser=family.denoiser(tokens, module=module),
        placement=placement,
        tokens={"adapter": tokens, "untrained": tokens},
        ema=family.tokens(2, 5, dtype).to(device),
        training=TrainConfig(batch_size=2) if training is None else training,
        encode_texts=lambda prompts: states_of(family, prompts, dtype),
        device=device,
    )
