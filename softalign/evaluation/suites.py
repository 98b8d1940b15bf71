"""The suites: prompts, detector and scorer of each; the one place that knows GenEval's rules and the embedded world."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from softalign.config.evaluation import EvalConfig
from softalign.config.runtime import Runtime
from softalign.errors import DataError
from softalign.geneval.completeness import Suite, asked_for, inspect_set, require_complete
from softalign.geneval.decision import require_clauses
from softalign.geneval.detections import Detection, Detector, read_detections
from softalign.geneval.layout import PromptFolder, read_folders
from softalign.geneval.prompts import (
    CLASSES,
    COLORS,
    GenevalPrompt,
    first_of_each_tag,
    from_json_lines,
    official_prompts,
    to_json_line,
)
from softalign.geneval.scoring import RESULTS_FILENAME, SuiteScore, score_folders, summarize, write_results
from softalign.store.files import read_bytes, require_folder_place

_FIX = (
    "make and detect again what is missing; name the prompts of another suite, or of a cut one, with --suite FILE; or "
    "score what is there with --allow-partial: it prints what is missing"
)
MAX_TAGS, MAX_TAG_CHARS = 40, 60
_FILE_SUFFIXES = (".jsonl", ".json", ".txt")


def detector_for(config: EvalConfig, runtime: Runtime) -> Detector:
    """Return the detector of the configured suite, loaded and tested.

    Raises:
        MissingInputError: a model of the detector is not there.
        CompatibilityError: a model is not of its kind, or of other classes.
        IntegrityError: its self-test failed.
        ConfigError: CUDA was asked for and is not there.
    """
    if config.is_embedded:
        from softalign.shapes.detector import ShapesDetector
        from softalign.shapes.self_test import require_sound

        require_sound(detector := ShapesDetector())
        return detector
    from softalign.backbones.frozen_pipeline import resolve_device
    from softalign.detectors.photographs import load_detector

    return load_detector(config.detector, resolve_device(runtime))


def check_detector(config: EvalConfig) -> None:
    """Refuse a suite whose detector, a metric's model or a distance's reference is not there; loads no model.

    Raises:
        MissingInputError: a model is not there, and the hub cannot be asked; or the reference is not.
        DataError: the reference's file cannot be read.
    """
    if config.metrics:
        from softalign.metrics.scorer import require_model

        for metric in config.metrics:
            require_model(metric)
    if config.distance is not None:
        from softalign.metrics.reference import require_reference

        require_reference(config.distance)
    if config.is_embedded:
        return
    from softalign.detectors.loading import require_models

    require_models(config.detector)


def label_of(config: EvalConfig) -> str:
    """Return what the suite's scores are called by whose weights detect; empty for the embedded world."""
    if config.is_embedded:
        return ""
    from softalign.detectors.identity import detector_label

    return _label_on(suite_prompts(config), detector_label(config.detector))


def _label_on(prompts: Sequence[GenevalPrompt], label: str) -> str:
    """Return the label of a detector's scores: ``geneval`` is for all official prompts alone, no cut or other suite."""
    is_whole = {asked_for(prompt) for prompt in prompts} == {asked_for(prompt) for prompt in official_prompts()}
    return label if label != "geneval" or is_whole else "geneval detector, other prompts"


def score_directory(
    root: Path,
    detections_path: Path,
    out: Path | None = None,
    *,
    suite: Suite | None = None,
    is_partial_allowed: bool = False,
    detector: str = "",
) -> SuiteScore:
    """Score a folder in the official layout from recorded detections, and write ``results.jsonl``.

    Args:
        root: ``00000/metadata.jsonl``, ``00000/samples/0000.png``, ...
        detections_path: JSON lines, one image each (``detections.read_detections``).
        out: a folder to put ``results.jsonl`` into, or the file itself (``.jsonl``); unset: the scored folder.
        suite: what the folder must have; unset: the official suite, or whatever its folders say.
        is_partial_allowed: score what is there of an incomplete set, and say in ``missing`` what is not.
        detector: the label of who detected (``SuiteScore.detector``); ``geneval`` is for the official prompts alone.

    Raises:
        ConfigError, MissingInputError: ``out`` lies below a file; the folder or the detections file is not there.
        DataError: the set is not complete (``completeness``), malformed lines, unknown classes or colours, missing
            colours.
    """
    target = results_place(root, out)
    require_folder_place(target.parent)
    folders = read_folders(root)
    detections = read_detections(detections_path, known_classes(folders))
    _check_colors(folders, detections, detections_path)
    found = inspect_set(root, folders, suite, detected=detections)
    if not is_partial_allowed:
        require_complete(found.lacks, str(root), _FIX)
    results = score_folders(found.folders, detections)
    label = _label_on([folder.prompt for folder in folders], detector)
    summary = summarize(results).model_copy(update={"missing": found.lacks, "detector": label})
    target.parent.mkdir(parents=True, exist_ok=True)
    write_results(target, results)
    return summary


def results_place(root: Path, out: Path | None) -> Path:
    """Return where the results of a folder go: into it, or into the folder or file that is named.

    A name that is not there yet is a file's only if it ends like one (``.jsonl``): ``sd3.5`` is a folder.
    """
    target = root if out is None else out
    is_file = target.suffix in _FILE_SUFFIXES or (target.suffix != "" and target.is_file())
    return target if is_file and not target.is_dir() else target / RESULTS_FILENAME


def known_classes(folders: Sequence[PromptFolder]) -> frozenset[str]:
    """Return the object names a detections file may use: the official ones, the embedded world's, the prompts' own."""
    from softalign.shapes.scenes import SHAPES

    named = {clause.class_name for f in folders for clause in (*f.prompt.include, *f.prompt.exclude)}
    return frozenset({*CLASSES, *SHAPES, *named})


def _check_colors(folders: Sequence[PromptFolder], detections: Mapping[str, Sequence[Detection]], path: Path) -> None:
    """Refuse a colour that no prompt could ask for: it would count as wrong without a word."""
    named = {clause.color for f in folders for clause in (*f.prompt.include, *f.prompt.exclude) if clause.color}
    known = {*COLORS, *named}
    for filename, found in detections.items():
        for detection in found:
            if detection.color is not None and detection.color not in known:
                raise DataError(
                    f"A detection has the unknown colour {detection.color!r}.",
                    expected=f"one of {', '.join(COLORS)}, or one that a prompt of the folder names",
                    found=detection.color,
                    where=f"{path}: {filename}",
                    fix="translate the classifier's colours to GenEval's ten names",
                )


def suite_prompts(config: EvalConfig) -> tuple[GenevalPrompt, ...]:
    """Return the prompts of the configured suite, in order: all, or the first of each tag.

    Raises:
        MissingInputError: the file of other prompts is not there.
        DataError: it cannot be read, or asks for something that the suite's detector does not know.
    """
    whole = _whole_suite(config)
    return whole if config.prompts_per_tag is None else first_of_each_tag(whole, config.prompts_per_tag)


def _whole_suite(config: EvalConfig) -> tuple[GenevalPrompt, ...]:
    if config.prompts_uri is not None:
        return _known_to_detector(_with_few_tags(read_suite(config.prompts_uri), config.prompts_uri), config)
    if config.is_embedded:
        from softalign.shapes.suite import build_suite

        return tuple(build_suite())
    return official_prompts()


def suite_label(config: EvalConfig) -> str:
    """Return what reports call the suite: its name, and with other prompts than its own a digest of them."""
    if config.prompts_uri is None and config.prompts_per_tag is None:
        return config.suite
    lines = "".join(to_json_line(prompt) + "\n" for prompt in suite_prompts(config))
    return f"{config.suite}+{hashlib.sha256(lines.encode()).hexdigest()[:12]}"


def _with_few_tags(prompts: tuple[GenevalPrompt, ...], uri: str) -> tuple[GenevalPrompt, ...]:
    """Refuse prompts of more tags than a comparison's record can hold, before an image is drawn."""
    tags = dict.fromkeys(prompt.tag for prompt in prompts)
    long = [tag for tag in tags if len(json.dumps(tag)) - 2 > MAX_TAG_CHARS]  # as records have it: in ASCII
    if len(tags) > MAX_TAGS or long:
        raise DataError(
            "A suite has too many tags, or one with too long a name, to be compared by.",
            expected=f"at most {MAX_TAGS} tags of at most {MAX_TAG_CHARS} characters, six for each outside of ASCII",
            found=f"{len(tags)} tags" + (f"; {json.dumps(long[0])[:90]} is longer" if long else ""),
            where=f"evaluate.prompts_uri {uri}",
            fix="group the prompts under fewer tags with shorter names",
        )
    return prompts


def _known_to_detector(prompts: tuple[GenevalPrompt, ...], config: EvalConfig) -> tuple[GenevalPrompt, ...]:
    names, colors = CLASSES, COLORS
    if config.is_embedded:
        from softalign.shapes import scenes

        names, colors = tuple(scenes.SHAPES), tuple(scenes.COLORS)
    for prompt in prompts:
        require_clauses(prompt)
    clauses = [clause for prompt in prompts for clause in (*prompt.include, *prompt.exclude)]
    asked = dict.fromkeys(word for clause in clauses for word in (clause.class_name, clause.color) if word)
    unknown = [word for word in asked if word not in {*names, *colors}]
    if unknown:
        raise DataError(
            "Prompts ask for what the suite's detector does not know: no image could be right.",
            expected=f"classes {', '.join(names)}; colours {', '.join(colors)}",
            found=", ".join(unknown),
            where=f"evaluate.prompts_uri {config.prompts_uri}, evaluate.suite {config.suite}",
        )
    return prompts


def read_suite(uri: str) -> tuple[GenevalPrompt, ...]:
    """Return the prompts of a suite's file: a path, or any URI that stores have.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is not UTF-8, or a line is no prompt's metadata; names it.
    """
    try:
        text = read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("A suite's file is not UTF-8 text.", found=str(error), where=uri) from error
    return from_json_lines(text, uri)


def suite_named(uri: str | None) -> Suite | None:
    """Return the suite of a file, with at least one image of each prompt; None where none is named."""
    return None if uri is None else Suite(read_suite(uri), images_per_prompt=1)
