"""A suite's images in GenEval's layout, from a base model or an adapter: what ``softalign geneval generate`` does.

An image's noise is drawn from the seed and the two places, its prompt's and its own, as in ``evaluate``. Batches are
cut from the whole suite, whatever is there and whichever process draws them, so a restart and any number of processes
give the files of one undisturbed run, byte for byte on the same hardware. Another batch size or device moves last bits:
at most a level of a few values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from softalign.artifacts import Frozen
from softalign.backbones.sampler import sampler_of
from softalign.config.families import FAMILIES
from softalign.errors import ConfigError
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import GenevalPrompt, to_json_line
from softalign.processes.stopping import StopRequest
from softalign.sampling.chosen_model import ChosenModel, choose_model, load_model
from softalign.sampling.image_facts import NO_ADAPTER
from softalign.sampling.prompt_files import require_texts
from softalign.sampling.sampling import Batch, ImageRequest, SamplingSettings, batch_drawer, generate_missing
from softalign.store.files import require_folder_place, write_atomically

GENERATION_FILENAME = "generation.json"


@dataclass(frozen=True)
class SetSettings:
    """How a set is drawn; what is None is the family's, of the resolution the model's own.

    Attributes:
        images_per_prompt: of each prompt; the official number is 4.
        scale: strength of the soft tokens.
        seed: of the noise.
        batch_size: images per denoiser call.
        shard: which part of the batches, from 1, of how many.
    """

    images_per_prompt: int = 4
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    resolution_px: int | None = None
    scale: float = 1.0
    seed: int = 0
    batch_size: int = 4
    shard: tuple[int, int] = (1, 1)


class Generation(Frozen):
    """What decides a set's images, kept in ``generation.json`` beside them.

    Attributes:
        resolution_px: None: the model's own.
        prompts_sha256: of their metadata lines.
        sampler: the scheduler's class, which is the model's; empty in sets of earlier versions.
    """

    schema_version: Literal[1] = 1
    base_model: str
    base_digest: str
    adapter: str
    adapter_sha256: str
    adapter_scale: float
    seed: int
    images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float
    resolution_px: int | None
    num_prompts: int
    prompts_sha256: str
    sampler: str = ""


@dataclass(frozen=True)
class GeneratedSet:
    """A set, or a shard of it.

    Attributes:
        num_images: of this shard.
        num_made: of them now; the others were there.
    """

    path: Path
    generation: Generation
    num_images: int
    num_made: int

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        counts = {"num_images": self.num_images, "num_made": self.num_made}
        return {"path": str(self.path), **counts, "generation": self.generation.model_dump(mode="json")}


def generate_set(
    model: str, adapter: str | None, prompts: tuple[GenevalPrompt, ...], out: Path, settings: SetSettings
) -> GeneratedSet:
    """Draw what is missing of a set; a folder of other settings is refused before anything is drawn.

    Args:
        model: a diffusers folder or id; the adapter's base model where there is one.
        adapter: what ``load_soft_tokens`` takes; None: the base model itself.
        prompts: of the suite, in order.
        out: the folder, made if absent.
        settings: how to sample.

    Raises:
        ConfigError: ``out`` lies below a file or holds a set of other settings, or there is no such shard.
        MissingInputError: there is no such model or adapter.
        CompatibilityError: the model is not the adapter's.
    """
    require_folder_place(out)
    require_texts(prompt.prompt for prompt in prompts)
    requests = shard_of(_requests(prompts, out, settings.images_per_prompt), settings)
    chosen = choose_model(adapter or NO_ADAPTER, model)
    generation = _generation(chosen, prompts, settings)
    _claim(out, generation)
    write_metadata(out, prompts)
    return GeneratedSet(out, generation, len(requests), _draw(chosen, generation, requests, settings))


def shard_of(requests: list[ImageRequest], settings: SetSettings) -> list[ImageRequest]:
    """Return the images of a shard: every n-th batch of the whole set, so that batches are the same in any number.

    Raises:
        ConfigError: there is no such shard.
    """
    number, total = settings.shard
    if not 1 <= number <= total:
        raise ConfigError(
            "There is no such shard.", expected="I/N with I from 1 to N", found=f"{number}/{total}", where="--shard"
        )
    size = settings.batch_size
    starts = range((number - 1) * size, len(requests), total * size)
    return [request for start in starts for request in requests[start : start + size]]


def _requests(prompts: tuple[GenevalPrompt, ...], out: Path, images_per_prompt: int) -> list[ImageRequest]:
    return [
        ImageRequest(prompt.prompt, prompt_index, image_index, out / image_filename(prompt_index, image_index))
        for prompt_index, prompt in enumerate(prompts)
        for image_index in range(images_per_prompt)
    ]


def _generation(chosen: ChosenModel, prompts: tuple[GenevalPrompt, ...], settings: SetSettings) -> Generation:
    family = FAMILIES[chosen.base.family]
    defaults, side_px = family.defaults, settings.resolution_px
    if side_px is not None and side_px % family.resolution_multiple_px:
        raise ConfigError(
            f"Images of {chosen.base.family} cannot have this side.",
            expected=f"a multiple of {family.resolution_multiple_px} pixels",
            found=str(side_px),
            where="--resolution-px",
        )
    lines = "".join(to_json_line(prompt) + "\n" for prompt in prompts)
    return Generation(
        **chosen.facts(settings.scale),
        seed=settings.seed,
        images_per_prompt=settings.images_per_prompt,
        num_inference_steps=settings.num_inference_steps or defaults["evaluate.num_inference_steps"],
        guidance_scale=settings.guidance_scale or defaults["evaluate.guidance_scale"],
        resolution_px=side_px,
        num_prompts=len(prompts),
        prompts_sha256=hashlib.sha256(lines.encode()).hexdigest(),
        sampler=sampler_of(chosen.base),
    )


def _claim(out: Path, generation: Generation) -> None:
    """Say in the folder what it holds, or refuse one that holds something else."""
    path = out / GENERATION_FILENAME
    wanted = generation.model_dump(mode="json")
    if path.is_file():
        found = _read(path)
        differing = [
            f"{name} {found.get(name)!r}, not {value!r}"
            for name, value in wanted.items()
            if name != "sampler" and found.get(name) != value
        ]
        if differing:
            raise _other_set(out, "; ".join(differing))
    elif out.is_dir() and any(out.glob("[0-9]*/samples/*")):
        raise _other_set(out, f"images without {GENERATION_FILENAME}")
    else:
        write_atomically(path, json.dumps(wanted, indent=1).encode() + b"\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        return Generation.model_validate_json(path.read_bytes()).model_dump(mode="json")
    except ValidationError:
        return {}


def _other_set(out: Path, found: str) -> ConfigError:
    return ConfigError(
        "The folder holds a set that was drawn otherwise; nothing was written.",
        expected="an empty folder, or a set of the same settings, which goes on",
        found=found,
        where=str(out),
        fix="name another folder with --out",
    )


def _draw(chosen: ChosenModel, generation: Generation, requests: list[ImageRequest], settings: SetSettings) -> int:
    backbone = load_model(chosen, settings.scale).backbone
    own_px = cast(Any, backbone.denoiser).config.sample_size * backbone.pipeline.vae_scale_factor
    sampling = SamplingSettings(
        num_inference_steps=generation.num_inference_steps,
        guidance_scale=generation.guidance_scale,
        resolution_px=generation.resolution_px or own_px,
        seed=generation.seed,
    )
    draw_batch = batch_drawer(backbone, sampling)

    def draw(batches: Iterable[Batch]) -> Iterator[tuple[bytes, ...]]:
        return map(draw_batch, batches)

    return generate_missing(draw, requests, sampling.resolution_px, settings.batch_size, StopRequest())
