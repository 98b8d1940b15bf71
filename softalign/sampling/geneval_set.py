"""A suite's images in GenEval's layout, from a base model or an adapter: what ``softalign geneval generate`` does.

An image's noise is drawn from the seed and the two places, its prompt's and its own, as in ``evaluate``. Batches are
cut from the whole suite, whatever is there and whichever process draws them, so a restart and any number of processes,
Ray's and shards included, give the files of one undisturbed run, byte for byte on the same hardware. Another batch size
or device moves last bits: at most a level of a few values.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from softalign.artifacts import Frozen
from softalign.backbones.frozen_pipeline import resolve_device
from softalign.backbones.sampler import sampler_of
from softalign.config.engine import LocalEngine
from softalign.config.families import FAMILIES
from softalign.config.runtime import Runtime
from softalign.engines.opening import open_engine
from softalign.engines.work import Work
from softalign.errors import ConfigError
from softalign.geneval.layout import write_metadata
from softalign.geneval.prompts import GenevalPrompt, to_json_line
from softalign.processes.stopping import StopRequest
from softalign.sampling.chosen_model import ChosenModel, choose_model, drawn_side_px, load_model
from softalign.sampling.image_facts import NO_ADAPTER
from softalign.sampling.prompt_files import require_texts
from softalign.sampling.sampling import (
    Batch,
    ImageRequest,
    SamplingSettings,
    batch_drawer,
    generate_missing,
    requests_of,
)
from softalign.store.files import require_folder_place, write_atomically

GENERATION_FILENAME = "generation.json"
ALONE = Runtime(engine=LocalEngine(num_processes=1))


@dataclass(frozen=True)
class SetSettings:
    """How a set is drawn; what is None is the family's, of the resolution the model's own.

    Attributes:
        images_per_prompt: of each prompt; the official number is 4.
        scale: strength of the soft tokens.
        seed: of the noise.
        batch_size: images per denoiser call.
        shard: which part of the batches, from 1, of how many.
        runtime: its engine draws: this process, several of this machine, or a Ray cluster's.
    """

    images_per_prompt: int = 4
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    resolution_px: int | None = None
    scale: float = 1.0
    seed: int = 0
    batch_size: int = 4
    shard: tuple[int, int] = (1, 1)
    runtime: Runtime = ALONE


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
        ConfigError: ``out`` lies below a file or holds a set of other settings, there is no such shard, or the engine
            cannot draw here.
        MissingInputError: there is no such model or adapter.
        CompatibilityError: the model is not the adapter's.
    """
    _require_use(settings.runtime)
    require_folder_place(out)
    require_texts(prompt.prompt for prompt in prompts)
    requests = shard_of(requests_of(prompts, settings.images_per_prompt, out), settings)
    chosen, began_s = choose_model(adapter or NO_ADAPTER, model), time.time()
    side_px = drawn_side_px(chosen.base, settings.resolution_px)
    generation = _generation(chosen, prompts, settings)
    _claim(out, generation)
    write_metadata(out, prompts)
    sampling = SamplingSettings(
        num_inference_steps=generation.num_inference_steps,
        guidance_scale=generation.guidance_scale,
        resolution_px=side_px,
        seed=generation.seed,
    )
    num_made = _draw(chosen, sampling, requests, settings)
    _remove_leftovers([out / GENERATION_FILENAME, *(request.path for request in requests)], began_s)
    return GeneratedSet(out, generation, len(requests), num_made)


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


def _require_use(runtime: Runtime) -> None:
    """Refuse several processes that would leave the drawing to this one: they share no GPU."""
    engine = runtime.engine
    if isinstance(engine, LocalEngine) and engine.num_processes != 1 and resolve_device(runtime).type == "cuda":
        raise ConfigError(
            "Several processes have no effect where there is a GPU, which one of them draws on.",
            expected="--ray local, which gives each GPU a process, or --shard I/N with CUDA_VISIBLE_DEVICES",
            found=f"--workers {engine.num_processes}",
        )


def _remove_leftovers(paths: list[Path], before_s: float) -> None:
    """Remove what killed runs left beside files that are whole now; nothing of other shards, which may be at work."""
    names = {(path.parent, path.name) for path in paths}
    for folder in {path.parent for path in paths}:
        for left in folder.glob(".*.*.*"):
            if (folder, left.name[1:].rsplit(".", 2)[0]) in names and left.stat().st_mtime < before_s:
                left.unlink(missing_ok=True)


def _draw(chosen: ChosenModel, sampling: SamplingSettings, requests: list[ImageRequest], settings: SetSettings) -> int:
    drawing = Work(draw_set, (chosen, settings.scale, sampling), uses_model=True)
    with open_engine(settings.runtime) as engine:
        draw = partial(engine.map, drawing)
        return generate_missing(draw, requests, sampling.resolution_px, settings.batch_size, StopRequest())


def draw_set(chosen: ChosenModel, scale: float, sampling: SamplingSettings) -> Callable[[Batch], tuple[bytes, ...]]:
    """Return the function that draws a batch of a set, as PNG files; loads the model and the adapter."""
    return batch_drawer(load_model(chosen, scale).backbone, sampling)
