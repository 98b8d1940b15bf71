"""One arm of an evaluation: the suite's images from base, untrained tokens or adapter, detected and scored.

All arms draw the same noise for the same prompt and image, so they are compared in pairs.
"""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from softalign.artifacts import BASE_ARMS, Adapter, Arm, EvalReport, TagScore
from softalign.backbones.sampler import sampler_of
from softalign.config.backbone import BackboneConfig
from softalign.config.evaluation import EvalConfig
from softalign.config.runtime import Runtime
from softalign.engines.opening import open_engine
from softalign.engines.work import Work
from softalign.errors import ConfigError
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.evaluation.intervals import OVERALL, counts_by_tag, score_intervals
from softalign.evaluation.pack_copies import PackCopies
from softalign.evaluation.packs import IMAGES_FOLDER, packs_of, write_packs
from softalign.evaluation.suites import check_detector, detector_for, label_of, suite_label, suite_prompts
from softalign.geneval.completeness import Suite, inspect_set, require_complete
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename, read_folders, write_metadata
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, score_folders, summarize, write_results
from softalign.processes.locking import exclusive
from softalign.processes.stopping import StopRequest
from softalign.sampling.sampling import Batch, Draw, ImageRequest, SamplingSettings, batch_drawer, generate_missing
from softalign.store.adapter_files import INITIAL_FOLDER
from softalign.store.store import Store

logger = logging.getLogger(__name__)

DETECTIONS_FILENAME = "detections.jsonl"
OUTPUT_FOLDER = "published"
"""Of a work folder: what is published, beside the images as files."""
_DETECTION_BATCH = 64


def evaluate(
    arm: Arm,
    adapter: Adapter | None,
    backbone: BackboneConfig,
    config: EvalConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    champion_path: str = "",
) -> EvalReport:
    """Generate and score one arm; resumes where an interrupted attempt stopped, with identical results.

    Args:
        arm: whose images; ``untrained`` takes the adapter's step-0 tokens.
        adapter: None for the arms of base and champion.
        backbone: the frozen model.
        config: suite, sampling and intervals.
        runtime: device, batch size, and which engine draws and detects.
        store: where the arm is published.
        key: the stage key.
        champion_path: the folder of the champion's files, for its arm.

    Raises:
        ConfigError, MissingInputError: arm and adapter do not go together; the suite's detector is not there.
        PreemptedError: SIGTERM came; finished images are kept.
    """
    _check_arm(arm, adapter, champion_path)
    tokens, config = tokens_digest(arm, adapter, store, config.pinned_champion), config.of_arm(arm)
    check_detector(config)  # refused before the model is loaded
    with exclusive(work := store.work_path("evaluate", key)):
        if (report := store.find(EvalReport, key)) is None:  # not made by another process meanwhile
            suite = Suite(suite_prompts(config), config.images_per_prompt)
            packs = packs_of(len(suite.prompts), suite.images_per_prompt)
            copies = PackCopies(store, key, work / "arm" / IMAGES_FOLDER, packs, work)
            asked = (arm, adapter, backbone, config, runtime, store.uri, champion_path)
            results = _make(Work(draw_arm, asked, uses_model=True), suite, copies, config, backbone, runtime)
            report = _report(arm, tokens, config, results, len(suite.prompts), key, sampler_of(backbone))
            report = store.publish(report, work / OUTPUT_FOLDER)
            copies.remove()
    shutil.rmtree(work, ignore_errors=True)
    return report


def _make(
    drawing: Work[Batch, tuple[bytes, ...]],
    suite: Suite,
    copies: PackCopies,
    config: EvalConfig,
    backbone: BackboneConfig,
    runtime: Runtime,
) -> tuple[ImageResult, ...]:
    """Draw, detect and score an arm's images and write what is published; return the verdicts."""
    images, output = copies.images_root, copies.work / OUTPUT_FOLDER
    with open_engine(runtime) as engine:
        num_made = _generate(partial(engine.map, drawing), suite, images, copies, config.side_px(backbone), runtime)
        logger.info("%d images made, %d were there", num_made, suite.num_images - num_made)
        detecting = Work(file_detector, (config, runtime), uses_model=not config.is_embedded)
        results = detect_and_score(images, suite, partial(engine.map, detecting), output)
    write_packs(images, copies.packs, output)
    return results


def _check_arm(arm: Arm, adapter: Adapter | None, champion_path: str) -> None:
    is_base = arm in (*BASE_ARMS, "champion")
    if is_base != (adapter is None) or (arm == "champion") != bool(champion_path):
        raise ConfigError(
            f"The arm {arm!r} and the adapter do not go together.",
            expected="no adapter" if is_base else "an adapter",
            found="none" if adapter is None else f"adapter {adapter.name}",
            where=f"evaluate, arm {arm}",
        )


def _image_requests(suite: Suite, root: Path) -> list[ImageRequest]:
    return [
        ImageRequest(prompt.prompt, prompt_index, image_index, root / image_filename(prompt_index, image_index))
        for prompt_index, prompt in enumerate(suite.prompts)
        for image_index in range(suite.images_per_prompt)
    ]


def draw_arm(
    arm: Arm,
    adapter: Adapter | None,
    backbone: BackboneConfig,
    config: EvalConfig,
    runtime: Runtime,
    store_uri: str,
    champion_path: str = "",
) -> Callable[[Batch], tuple[bytes, ...]]:
    """Return the function that draws a batch of an arm's images, as PNG files; loads the model and the adapter."""
    from softalign.backbones.frozen_pipeline import backbone_dtype, resolve_device
    from softalign.backbones.loading import load_backbone

    device = resolve_device(runtime)
    frozen = load_backbone(backbone, device=device, dtype=backbone_dtype(device))
    if adapter is not None or champion_path:
        _attach(frozen.pipeline, arm, _tokens_folder(arm, adapter, Store(store_uri), champion_path), config)
    return batch_drawer(frozen, _settings(backbone, config))


def _settings(backbone: BackboneConfig, config: EvalConfig) -> SamplingSettings:
    return SamplingSettings(
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        resolution_px=config.side_px(backbone),
        seed=config.seed,
    )


def _tokens_folder(arm: Arm, adapter: Adapter | None, store: Store, champion_path: str) -> Path:
    if adapter is None:
        return Path(champion_path)
    folder = store.fetch(adapter)
    return folder / INITIAL_FOLDER if arm == "untrained" else folder


def _attach(pipeline: Any, arm: Arm, folder: Path, config: EvalConfig) -> None:
    from softalign.adapters.attach import load_soft_tokens

    load_soft_tokens(
        pipeline,
        folder,
        scale=config.scale,
        use_ema=config.use_ema and arm == "adapter",
        unconditional_bank=config.unconditional_bank,
    )


def _generate(draw: Draw, suite: Suite, images: Path, copies: PackCopies, side_px: int, runtime: Runtime) -> int:
    """Make the images that are not there yet, until SIGTERM, and return how many were made."""
    write_metadata(images, suite.prompts)
    copies.fetch()

    def draw_and_copy(batches: Iterable[Batch]) -> Iterator[tuple[bytes, ...]]:
        for drawn in draw(batches):
            yield drawn
            copies.offer()  # the batch is on the disk now

    requests, stop = _image_requests(suite, images), StopRequest()
    with stop.listening():
        try:
            return generate_missing(draw_and_copy, requests, side_px, runtime.generation_batch_size, stop)
        except BaseException:
            copies.finish()
            raise


def file_detector(config: EvalConfig, runtime: Runtime) -> Callable[[tuple[bytes, ...]], list[list[Detection]]]:
    """Return the function that detects what some image files show."""
    detector = detector_for(config, runtime)
    return lambda files: detector([load_image(io.BytesIO(file)) for file in files])


def detect_and_score(
    images_root: Path,
    suite: Suite,
    detect: Callable[[Iterable[tuple[bytes, ...]]], Iterable[list[list[Detection]]]],
    out: Path,
) -> tuple[ImageResult, ...]:
    """Detect and score a complete set of images, and write both to a folder that is made anew."""
    found = inspect_set(images_root, read_folders(images_root), suite)
    require_complete(found.lacks, str(images_root), "run the evaluation again; images that are there are kept")
    filenames = [filename for folder in found.folders for filename in folder.filenames]
    detections: dict[str, list[Detection]] = {}
    batches = [filenames[start : start + _DETECTION_BATCH] for start in range(0, len(filenames), _DETECTION_BATCH)]
    files = (tuple((images_root / filename).read_bytes() for filename in batch) for batch in batches)
    for batch, found_in in zip(batches, detect(files), strict=True):
        detections.update(zip(batch, found_in, strict=True))
    results = score_folders(found.folders, detections)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_detections(out / DETECTIONS_FILENAME, detections)
    write_results(out / RESULTS_FILENAME, results)
    return results


def load_image(file: IO[bytes]) -> NDArray[np.uint8]:
    """Return an image file as uint8 (H, W, 3), its EXIF orientation applied."""
    with Image.open(file) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _report(
    arm: Arm,
    digest: str,
    config: EvalConfig,
    results: tuple[ImageResult, ...],
    num_prompts: int,
    key: str,
    sampler: str,
) -> EvalReport:
    summary = summarize(results)
    intervals = score_intervals(
        counts_by_tag(results), num_bootstrap=config.num_bootstrap, confidence=config.confidence, seed=config.seed
    )
    overall = intervals[OVERALL]
    return EvalReport(
        stage_key=key,
        parents=(digest,) if digest else (),
        arm=arm,
        suite=suite_label(config),
        adapter_digest=digest,
        overall_score=overall.value,
        overall_ci_low=overall.low,
        overall_ci_high=overall.high,
        tags=tuple(
            TagScore(
                tag=tag,
                score=intervals[tag].value,
                ci_low=intervals[tag].low,
                ci_high=intervals[tag].high,
                num_images=task.num_images,
                num_correct=task.num_correct,
            )
            for tag, task in summary.tags.items()
        ),
        num_images=summary.num_images,
        num_prompts=num_prompts,
        num_prompts_any_correct=summary.num_prompts_any_correct,
        guidance_scale=config.guidance_scale,
        detector=label_of(config),
        sampler=sampler,
        num_inference_steps=config.num_inference_steps,
    )
