"""The images a diagnosis looks at: with a caption that is true of them, and edits of it that are not.

Of the embedded world scenes are rendered anew, so that truth is known; of photographs the held-out split is taken, and
edits are those that training would draw (``hard_negatives``), false as far as words can tell.

Shape legend: B images, C H W latents, h w pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from softalign.artifacts import digest_of
from softalign.config.training import EDIT_KINDS, EditKind
from softalign.data.captions.hard_negatives import EditedCaption, edited_captions
from softalign.data.encoding.reader import EncodedReader
from softalign.shapes.captions import Caption, altered_captions, complete_caption, is_true, kind_of_change
from softalign.shapes.scenes import Scene, render_batch, sample_scene

MAX_EDITS_PER_KIND = 3
"""Of one caption: chance is then 1/4 at most kinds, as in training with three negatives."""
KIND_OF_CHANGE: dict[str, EditKind] = {"relation": "position", "count": "count", "color": "color", "shape": "object"}
_SCENES = 20261126
"""The seed of the rendered scenes: no dataset's."""


@dataclass(frozen=True, eq=False)
class ProbeImage:
    """One image: its latents, its caption, and edits of that."""

    latents_CHW: Float[Tensor, "C H W"]
    caption: str
    edits: tuple[EditedCaption, ...]

    def edits_of(self, kind: EditKind) -> list[str]:
        """Return the edits of one kind."""
        return [edit.text for edit in self.edits if edit.kind == kind]


def rendered_images(
    number: int, seed: int, encode: Callable[[Float[Tensor, "B 3 h w"]], Float[Tensor, "B C H W"]]
) -> tuple[ProbeImage, ...]:
    """Return scenes of the embedded world with complete captions and edits that are false of the scene.

    Args:
        number: how many.
        seed: other scenes with another one.
        encode: latents of images in [-1, 1].
    """
    drawn = [_captioned(np.random.default_rng([_SCENES, seed, index])) for index in range(number)]
    pixels = torch.from_numpy(render_batch([scene for scene, _ in drawn])).permute(0, 3, 1, 2)
    latents_BCHW = encode(pixels.float() / 127.5 - 1.0)
    return tuple(
        ProbeImage(latents, caption.text, _few(caption.text, _false_edits(caption, scene)))
        for latents, (scene, caption) in zip(latents_BCHW, drawn, strict=True)
    )


def held_out_images(reader: EncodedReader, number: int) -> tuple[ProbeImage, ...]:
    """Return images of a held-out split, chosen by hash, each with its first caption; at most as many as there are."""
    found = reader.first_images(number)
    return tuple(
        ProbeImage(
            image.latents_CHW,
            image.captions[0],
            _few(image.captions[0], edited_captions(image.captions[0], image.captions)),
        )
        for image in found
    )


def _captioned(rng: np.random.Generator) -> tuple[Scene, Caption]:
    scene = sample_scene(rng)
    return scene, complete_caption(scene, rng)


def _false_edits(caption: Caption, scene: Scene) -> list[EditedCaption]:
    return [
        EditedCaption(other.text, KIND_OF_CHANGE[kind_of_change(caption, other)])
        for other in altered_captions(caption)
        if not is_true(other, scene)
    ]


def _few(caption: str, edits: Iterable[EditedCaption]) -> tuple[EditedCaption, ...]:
    """Return at most MAX_EDITS_PER_KIND edits of each kind, pseudo-random ones, by the kinds' order."""
    ordered: Sequence[EditedCaption] = sorted(edits, key=lambda edit: digest_of([caption, edit.text]))
    by_kind = ((edit for edit in ordered if edit.kind == kind) for kind in EDIT_KINDS)
    return tuple(edit for few in by_kind for edit in islice(few, MAX_EDITS_PER_KIND))
