"""Images from prompts with an adapter, in a folder: what ``softalign generate`` does.

Each file says how it was made, so that the same request goes on where it was interrupted, and another one is refused
before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from softalign.artifacts import Family
from softalign.config.evaluation import UnconditionalBank
from softalign.config.families import FAMILIES
from softalign.errors import ConfigError
from softalign.processes.reporter import Reporter
from softalign.sampling.chosen_model import ChosenModel, LoadedModel, choose_model, load_model, without_tokens
from softalign.sampling.contact_sheet import SheetLayout, contact_sheet
from softalign.sampling.image_facts import NO_ADAPTER, GeneratedImage, SheetOfImages
from softalign.sampling.prompt_files import require_texts
from softalign.sampling.sampling import ImageRequest, SamplingSettings, generate_batch, png_bytes, trained_side_px
from softalign.sampling.written_before import PlannedFile, kept_files, refuse_foreign
from softalign.store.files import require_folder_place, write_atomically

SHEET_FILENAME = "grid.png"
BASE_ENDING = "-base"
Planned = PlannedFile[GeneratedImage]


@dataclass(frozen=True)
class GenerationSettings:
    """How many images and how: steps and guidance (None: the family's), strength of the soft tokens, seed of the noise.

    ``is_forced``, ``unconditional_bank`` and ``divide_by_guidance`` are arguments of ``load_soft_tokens``.
    ``has_sheet``: the base model's images from the same noise are drawn too, and all are shown in one picture.
    """

    num_images: int
    num_inference_steps: int | None
    guidance_scale: float | None
    scale: float
    seed: int
    is_forced: bool = False
    unconditional_bank: UnconditionalBank = "positive"
    has_sheet: bool = False
    divide_by_guidance: bool = False

    def require_effect(self, adapter: str) -> None:
        """Refuse options that say how soft tokens are loaded, where none are.

        Args:
            adapter: what is drawn with; ``none``: no soft tokens.

        Raises:
            ConfigError: such an option is set without an adapter.
        """
        if self.unconditional_bank == "negative":
            option = "--unconditional-bank negative"
        elif self.divide_by_guidance:
            option = "--divide-by-guidance"
        else:
            return
        if adapter == NO_ADAPTER:
            raise ConfigError(
                f"{option} has no effect without an adapter.",
                expected="an adapter, or no option of its soft tokens",
                found=NO_ADAPTER,
                where=option,
                fix=f"name an adapter, or leave out {option}",
            )

    def of_family(self, family: Family) -> dict[str, Any]:
        """Return the facts that all images share, with the family's steps and guidance where none are set."""
        defaults = FAMILIES[family].defaults
        return {
            "seed": self.seed,
            "num_inference_steps": self.num_inference_steps or defaults["evaluate.num_inference_steps"],
            "guidance_scale": self.guidance_scale or defaults["evaluate.guidance_scale"],
            "unconditional_bank": self.unconditional_bank,
            "divide_by_guidance": self.divide_by_guidance,
        }


@dataclass(frozen=True)
class GeneratedFolder:
    """What a request's files are.

    Attributes:
        images: all of them, in order; with a sheet each beside the base model's.
        num_kept: how many were there already, from the same request.
        sheet: the picture of all; None where it was not asked for.
    """

    images: tuple[Path, ...]
    num_kept: int
    sheet: Path | None


def generate_to_folder(
    adapter: str,
    prompts: Sequence[str],
    out: Path,
    base: str | None,
    settings: GenerationSettings,
    *,
    is_overwriting: bool = False,
) -> GeneratedFolder:
    """Write ``prompt-000-0.png`` and so on to ``out``; images that are there from the same request are kept.

    An image's name and noise depend on the prompt's place, the image's place and (noise alone) the seed. With a sheet
    ``prompt-000-0-base.png`` is the base model's, and ``grid.png`` shows all.

    Args:
        adapter: what ``load_soft_tokens`` takes, or ``none`` for the base model itself.
        prompts: one or more.
        out: folder, made if absent.
        base: another base model than the adapter's, of the same architecture and weights (a local copy, say).
        settings: how to sample.
        is_overwriting: draw all, and replace files of the same names.

    Raises:
        ConfigError: ``none`` without a base model, ``out`` lies below a file, other images of these names are there,
            a prompt is no text, the sheet would be too large, or an option of tokens is set without an adapter.
        CompatibilityError: the base model is not the adapter's.
    """
    _require_sense(adapter, prompts, out, settings)
    if not is_overwriting:
        refuse_foreign(_paths(out, adapter, len(prompts), settings), out)
    chosen = choose_model(adapter, base)
    rows = [_row(out, chosen, index, prompt, settings) for index, prompt in enumerate(prompts)]
    sheets = [_planned_sheet(out, chosen, rows, settings)] if settings.has_sheet else []
    kept = frozenset[Path]() if is_overwriting else kept_files([*chain(*rows), *sheets], out)
    _draw(prompts, rows, kept, chosen, settings)
    for sheet in (one for one in sheets if one.path not in kept):
        write_atomically(sheet.path, _sheet_of(rows, sheet.facts))
    images = tuple(one.path for one in chain(*rows))
    return GeneratedFolder(images, len(kept.intersection(images)), sheets[0].path if sheets else None)


def _require_sense(adapter: str, prompts: Sequence[str], out: Path, settings: GenerationSettings) -> None:
    """Refuse a request that can be seen to be wrong before any file is looked at."""
    require_folder_place(out)
    require_texts(prompts)
    settings.require_effect(adapter)


def _arms(adapter: str, settings: GenerationSettings) -> tuple[str, ...]:
    """Return what the file names of a prompt's images end with: the base model's beside the adapter's, or one alone."""
    return (BASE_ENDING, "") if settings.has_sheet and adapter != NO_ADAPTER else ("",)


def _path(out: Path, prompt_index: int, image_index: int, ending: str) -> Path:
    return out / f"prompt-{prompt_index:03d}-{image_index}{ending}.png"


def _paths(out: Path, adapter: str, num_prompts: int, settings: GenerationSettings) -> list[Path]:
    places = product(range(num_prompts), range(settings.num_images), _arms(adapter, settings))
    return [_path(out, *place) for place in places] + ([out / SHEET_FILENAME] if settings.has_sheet else [])


def _row(out: Path, chosen: ChosenModel, index: int, prompt: str, settings: GenerationSettings) -> list[Planned]:
    """Return a prompt's images in the order of the sheet's columns."""
    return [
        PlannedFile(
            _path(out, index, image, ending),
            GeneratedImage(
                prompt=prompt,
                prompt_index=index,
                image_index=image,
                **settings.of_family(chosen.base.family),
                **(chosen.without_adapter() if ending else chosen).facts(settings.scale),
            ),
        )
        for image, ending in product(range(settings.num_images), _arms(chosen.adapter, settings))
    ]


def _planned_sheet(
    out: Path, chosen: ChosenModel, rows: Sequence[Sequence[Planned]], settings: GenerationSettings
) -> PlannedFile[SheetOfImages]:
    _layout(rows).require_drawable()
    facts = SheetOfImages(
        prompts=tuple(row[0].facts.prompt for row in rows),
        num_images=settings.num_images,
        **settings.of_family(chosen.base.family),
        **chosen.facts(settings.scale),
    )
    return PlannedFile(out / SHEET_FILENAME, facts)


def _sheet_of(rows: Sequence[Sequence[Planned]], facts: SheetOfImages) -> bytes:
    pictures = [[_opened(one.path) for one in row] for row in rows]
    return contact_sheet(_layout(rows), pictures, facts.to_png_info())


def _layout(rows: Sequence[Sequence[Planned]]) -> SheetLayout:
    """Return the sheet's labels."""
    first = rows[0][-1].facts
    shared = [
        f"base {first.base_model}",
        *([] if first.adapter == NO_ADAPTER else [f"adapter {first.adapter} at scale {first.adapter_scale:g}"]),
        f"seed {first.seed}",
        f"{first.num_inference_steps} steps, guidance {first.guidance_scale:g}",
    ]
    return SheetLayout(
        title="; ".join(shared),
        rows=tuple(f"{row[0].facts.prompt_index:03d}  {row[0].facts.prompt}" for row in rows),
        columns=tuple(f"{'base' if _is_of_base(one) else 'adapter'} {one.facts.image_index}" for one in rows[0]),
    )


def _draw(
    prompts: Sequence[str],
    rows: Sequence[Sequence[Planned]],
    kept: frozenset[Path],
    chosen: ChosenModel,
    settings: GenerationSettings,
) -> None:
    """Draw what is not there, in the batches of an undisturbed run: a prompt's images of one model at a time."""
    batches = [[one for one in row if _is_of_base(one) == is_base] for row in rows for is_base in (False, True)]
    todo = [batch for batch in batches if not all(one.path in kept for one in batch)]
    if not todo:
        return
    loaded = load_model(
        chosen,
        settings.scale,
        is_forced=settings.is_forced,
        unconditional_bank=settings.unconditional_bank,
        divide_by_guidance=settings.divide_by_guidance,
    )
    num_images, num_todo = sum(map(len, batches)), sum(map(len, todo))
    with Reporter("generate", "images", num_images, num_reused=num_images - num_todo) as images:
        for batch in todo:
            for one, pixels in zip(batch, _drawn(loaded, prompts, batch), strict=True):
                if one.path not in kept:
                    write_atomically(one.path, png_bytes(pixels, one.facts.to_png_info()))
            images.reach(images.done + len(batch))


def _drawn(loaded: LoadedModel, prompts: Sequence[str], batch: Sequence[Planned]) -> list[NDArray[np.uint8]]:
    backbone, facts = loaded.backbone, batch[0].facts
    sampling = SamplingSettings(
        num_inference_steps=facts.num_inference_steps,
        guidance_scale=facts.guidance_scale,
        resolution_px=trained_side_px(backbone),
        seed=facts.seed,
    )
    requests = [
        ImageRequest(prompts[one.facts.prompt_index], one.facts.prompt_index, one.facts.image_index, one.path)
        for one in batch
    ]
    with without_tokens(loaded) if _is_of_base(batch[0]) else nullcontext():
        return list(generate_batch(backbone, requests, sampling))


def _is_of_base(planned: Planned) -> bool:
    return planned.facts.adapter == NO_ADAPTER


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
