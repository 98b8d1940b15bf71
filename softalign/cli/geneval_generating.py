"""Command of GenEval that draws a suite's images."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated

import typer

from softalign.cli.geneval import geneval_app
from softalign.cli.options import GuidanceOption, JsonOption, ScaleOption, emit
from softalign.config.engine import LocalEngine, RayEngine
from softalign.config.runtime import Runtime
from softalign.errors import ConfigError
from softalign.processes.leaving import leaving_in_order

StepsOption = Annotated[
    int | None, typer.Option("--num-inference-steps", min=1, help="default: the papers' for the family")
]
log = logging.getLogger("softalign")


PromptsOption = Annotated[
    str | None,
    typer.Option("--prompts", "--suite", metavar="FILE", help="a suite, GenEval 2's too; default: the official 553"),
]
ShardOption = Annotated[
    str, typer.Option("--shard", metavar="I/N", help="the I-th of N parts, from 1: a process, GPU or machine each")
]
WorkersOption = Annotated[
    int, typer.Option("--workers", min=1, help="processes of this machine that draw where there is no GPU")
]
RayOption = Annotated[
    str | None,
    typer.Option("--ray", metavar="ADDRESS", help="a Ray cluster draws, a process each GPU: auto, host:port, local"),
]


@geneval_app.command("generate")
def geneval_generate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="a diffusers model: folder or id")],
    out: Annotated[Path, typer.Option("--out", help="folder for the images: 00000/samples/0000.png and so on")],
    adapter: Annotated[
        str | None, typer.Option("--adapter", help="soft tokens: folder, URI, models:/NAME@ALIAS; default: none")
    ] = None,
    prompts: PromptsOption = None,
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", min=1)] = 4,
    num_inference_steps: StepsOption = None,
    guidance_scale: GuidanceOption = None,
    resolution_px: Annotated[
        int | None, typer.Option("--resolution-px", min=8, help="side of the images; default: the model's own")
    ] = None,
    scale: ScaleOption = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="of the noise")] = 0,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="images per call of the denoiser")] = 4,
    shard: ShardOption = "1/1",
    workers: WorkersOption = 1,
    ray: RayOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw a suite's images in the official layout; images that are there are kept, other settings refused."""
    part, runtime = _shard(shard), _runtime(workers, ray)
    log.info("Loading PyTorch and the model")
    from softalign.evaluation.suites import read_suite
    from softalign.geneval.prompts import official_prompts
    from softalign.sampling.geneval_set import SetSettings, generate_set

    suite = official_prompts() if prompts is None else read_suite(prompts)
    numbers = (images_per_prompt, num_inference_steps, guidance_scale, resolution_px, scale, seed, batch_size)
    settings = SetSettings(*numbers, part, runtime)
    with leaving_in_order(lambda: "stopped: images that are there are kept; the same command draws the others"):
        made = generate_set(model, adapter, suite, out, settings)
    emit(made.to_json(), as_json, f"{made.num_images} images in {made.path}, {made.num_made} of them drawn now")


def _runtime(workers: int, ray: str | None) -> Runtime:
    if ray is None:
        return Runtime(engine=LocalEngine(num_processes=workers))
    if workers > 1:
        raise ConfigError(
            "Ray draws, or processes of this machine: one of them.", found=f"--workers {workers} --ray {ray}"
        )
    return Runtime(engine=RayEngine(address=None if ray == "local" else ray))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if match is None:
        raise ConfigError("This is no shard.", expected="I/N, such as 1/4", found=text, where="--shard")
    return int(match[1]), int(match[2])
