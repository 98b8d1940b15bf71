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
from typing import Any

from softalign.artifacts import BASE_ARMS, Adapter, Arm, EvalReport
from softalign.backbones.sampler import sampler_of
from softalign.config.backbone import BackboneConfig
from softalign.config.evaluation import EvalConfig
from softalign.config.runtime import Runtime
from softalign.engines.opening import open_engine
from softalign.engines.work import Work
from softalign.errors import ConfigError
from softalign.evaluation.arm_distance import write_distances
from softalign.evaluation.arm_metrics import write_metric_values
from softalign.evaluation.arm_report import arm_report
from softalign.evaluation.drawing_key import comes_with_its_scorer, drawing_key
from softalign.evaluation.evaluated_tokens import tokens_digest
from softalign.evaluation.image_files import load_image
from softalign.evaluation.pack_copies import PackCopies
from softalign.evaluation.packs import IMAGES_FOLDER, ArmImages, packs_of, write_packs
from softalign.evaluation.rounds import Detections, ImageOrder, borrow, image_order
from softalign.evaluation.suites import detector_for, suite_prompts
from softalign.evaluation.undetected import require_detector
from softalign.geneval.completeness import Suite, inspect_set, require_complete
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import read_folders, write_metadata
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, score_folders, write_results
from softalign.processes.locking import exclusive
from softalign.processes.stopping import StopRequest
from softalign.sampling.sampling import Batch, Draw, SamplingSettings, batch_drawer, generate_missing
from softalign.store.adapter_files import INITIAL_FOLDER
from softalign.store.store import Store

logger = logging.getLogger(__name__)

DETECTIONS_FILENAME = "detections.jsonl"
OUTPUT_FOLDER = "published"
"""Of a work folder: what is published, beside the images as files."""
DETECTION_BATCH = 64
Asked = tuple[Arm, Adapter | None, BackboneConfig, EvalConfig, Runtime, str, str]
"""What ``draw_arm`` takes."""


def evaluate(
    arm: Arm,
    adapter: Adapter | None,
    backbone: BackboneConfig,
    config: EvalConfig,
    runtime: Runtime,
    store: Store,
    key: str,
    champion_path: str = "",
    lent: EvalReport | None = None,
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
        lent: the same arm with another number of images of each prompt: those that both have are taken from it.

    Raises:
        ConfigError, PreemptedError: arm and adapter do not go together; SIGTERM came, finished images are kept.
        UndetectedError: the suite's detector, or a metric's model, is not there; the images are drawn and kept.
    """
    _check_arm(arm, adapter, champion_path)
    tokens, is_in_rounds = tokens_digest(arm, adapter, store, config.pinned_champion), config.is_in_rounds
    config = config.of_arm(arm)
    drawn_as = key if comes_with_its_scorer(config) else drawing_key(tokens, backbone, config)
    with exclusive(work := store.work_path("evaluate", drawn_as)):
        if (report := store.find(EvalReport, key)) is None:  # not made by another process meanwhile
            asked = (arm, adapter, backbone, config, runtime, store.uri, champion_path)
            suite, copies = _begin(config, store, drawn_as, work)
            order = _order(suite, copies.images_root, store, lent, is_in_rounds)
            report = _published(asked, tokens, order, suite, copies, store, key)
    shutil.rmtree(work, ignore_errors=True)
    return report


def _begin(config: EvalConfig, store: Store, drawn_as: str, work: Path) -> tuple[Suite, PackCopies]:
    suite = Suite(suite_prompts(config), config.images_per_prompt)
    packs = packs_of(len(suite.prompts), suite.images_per_prompt)
    return suite, PackCopies(store, drawn_as, work / "arm" / IMAGES_FOLDER, packs, work)


def _published(
    asked: Asked, tokens: str, order: ImageOrder, suite: Suite, copies: PackCopies, store: Store, key: str
) -> EvalReport:
    arm, _, backbone, config, runtime, *_ = asked
    results = _make(Work(draw_arm, asked, uses_model=True), order, suite, copies, config, backbone, runtime)
    output = copies.work / OUTPUT_FOLDER
    made = arm_report(arm, tokens, config, results, len(suite.prompts), key, sampler_of(backbone))
    report = store.publish(made, output)
    copies.remove()
    return report


def _make(
    drawing: Work[Batch, tuple[bytes, ...]],
    order: ImageOrder,
    suite: Suite,
    copies: PackCopies,
    config: EvalConfig,
    backbone: BackboneConfig,
    runtime: Runtime,
) -> tuple[ImageResult, ...]:
    """Draw, detect and score an arm's images and write what is published; return the verdicts."""
    images, output = copies.images_root, copies.work / OUTPUT_FOLDER
    with open_engine(runtime) as engine:
        write_metadata(images, suite.prompts)
        num_made = _generate(partial(engine.map, drawing), order, copies, config.side_px(backbone), runtime)
        logger.info("%d images made, %d were there", num_made, suite.num_images - num_made)
        require_detector(config, images)
        detecting = Work(file_detector, (config, runtime), uses_model=not config.is_embedded)
        results = detect_and_score(images, suite, partial(engine.map, detecting), output, order)
        write_metric_values(images, results, config.metrics, runtime, engine, output, order.lent)
        write_distances(images, results, config.distance, runtime, engine, output)
    write_packs(images, copies.packs, output)
    return results


def _order(suite: Suite, root: Path, store: Store, lent: EvalReport | None, is_in_rounds: bool) -> ImageOrder:
    known: Detections = {}
    published = None if lent is None else store.fetch(lent)
    if published is not None:
        known = borrow(ArmImages(published), published / DETECTIONS_FILENAME, suite, root)
    return image_order(suite, root, known, published, is_in_rounds=is_in_rounds)


def _check_arm(arm: Arm, adapter: Adapter | None, champion_path: str) -> None:
    is_base = arm in (*BASE_ARMS, "champion")
    if is_base != (adapter is None) or (arm == "champion") != bool(champion_path):
        raise ConfigError(
            f"The arm {arm!r} and the adapter do not go together.",
            expected="no adapter" if is_base else "an adapter",
            found="none" if adapter is None else f"adapter {adapter.name}",
            where=f"evaluate, arm {arm}",
        )


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
        divide_by_guidance=config.divide_by_guidance,
    )


def _generate(draw: Draw, order: ImageOrder, copies: PackCopies, side_px: int, runtime: Runtime) -> int:
    """Make the images that are not there yet, until SIGTERM, and return how many were made."""
    copies.fetch()

    def draw_and_copy(batches: Iterable[Batch]) -> Iterator[tuple[bytes, ...]]:
        for drawn in draw(batches):
            yield drawn
            copies.offer()  # the batch is on the disk now

    stop, batch_size = StopRequest(), runtime.generation_batch_size
    with stop.listening():
        try:
            return generate_missing(draw_and_copy, order.images, side_px, batch_size, stop, order.round_size)
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
    order: ImageOrder | None = None,
) -> tuple[ImageResult, ...]:
    """Detect and score a complete set of images, and write both to a folder that is made anew.

    Args:
        images_root: the images, in the official layout.
        suite: whose images they are.
        detect: yields what the images of each batch show.
        out: the folder.
        order: in which images are looked at, and what some are known to show; None: prompt by prompt, nothing known.
    """
    found = inspect_set(images_root, read_folders(images_root), suite)
    require_complete(found.lacks, str(images_root), "run the evaluation again; images that are there are kept")
    filenames = [filename for folder in found.folders for filename in folder.filenames]
    batches = [filenames[start : start + DETECTION_BATCH] for start in range(0, len(filenames), DETECTION_BATCH)]
    if order is not None:
        batches = order.batches_to_detect(images_root, DETECTION_BATCH)
    files = (tuple((images_root / filename).read_bytes() for filename in batch) for batch in batches)
    seen = dict(order.known) if order is not None else {}
    for batch, found_in in zip(batches, detect(files), strict=True):
        seen.update(zip(batch, found_in, strict=True))
    detections = {filename: seen[filename] for filename in filenames}
    results = score_folders(found.folders, detections)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_detections(out / DETECTIONS_FILENAME, detections)
    write_results(out / RESULTS_FILENAME, results)
    return results
