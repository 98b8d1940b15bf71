"""Detections of a folder of images, written as they come: who goes on detects only what is missing or was changed."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.config.evaluation import DetectorConfig, EvalConfig
from softalign.config.runtime import Runtime
from softalign.detectors.identity import DetectorLabel, detector_fingerprint, detector_label
from softalign.detectors.loading import require_models
from softalign.errors import ConfigError
from softalign.evaluation.arms import DETECTIONS_FILENAME
from softalign.evaluation.image_files import load_image
from softalign.evaluation.suites import detector_for
from softalign.geneval.detections import Detector, detections_to_line
from softalign.geneval.image_faults import image_fault
from softalign.geneval.layout import read_folders
from softalign.processes.locking import exclusive
from softalign.store.files import write_atomically


@dataclass(frozen=True, slots=True)
class DetectedFolder:
    """The detections file of a folder, what its scores may be called, and how many images were looked at now."""

    path: Path
    label: DetectorLabel
    num_detected: int


def detect_folder(root: Path, config: DetectorConfig, runtime: Runtime) -> DetectedFolder:
    """Detect every readable image of a folder in the official layout and write ``detections.jsonl`` into it.

    Each line holds its image's sha256 and a digest of the detector. Lines of the same bytes and detector are kept; the
    images of one prompt are detected together, so a CUDA device answers alike however often the work was stopped.

    Args:
        root: ``00000/metadata.jsonl``, ``00000/samples/0000.png``, ...
        config: the models.
        runtime: the device.

    Raises:
        MissingInputError: the folder has no images in that layout, or a model is not there.
        ConfigError: the folder has a detections file that came from elsewhere.
        CompatibilityError: a model cannot be used.
        IntegrityError: the detector failed its self-test.
    """
    require_models(config)
    groups = [
        [filename for filename in folder.filenames if not image_fault(root / filename)] for folder in read_folders(root)
    ]
    path, fingerprint = root / DETECTIONS_FILENAME, detector_fingerprint(config)
    with exclusive(root):
        images = {name: sha256 for group in groups for name in group if (sha256 := _sha256(root / name))}
        lines = _lines_of(path, images, fingerprint)
        missing = [group for group in groups if not lines.keys() >= set(group)]
        _write(path, lines)
        if missing:
            detector = detector_for(EvalConfig(suite="geneval", detector=config), runtime)
            for group in missing:
                new = _detected(root, group, detector, fingerprint)
                lines |= new
                with path.open("a", encoding="utf-8") as file:
                    file.write("".join(new.values()))
        _write(path, {name: lines[name] for name in images})
    (root / ".lock").unlink(missing_ok=True)
    return DetectedFolder(path, detector_label(config), sum(map(len, missing)))


def _detected(root: Path, group: Sequence[str], detector: Detector, fingerprint: str) -> dict[str, str]:
    """Return the lines of some images, by file name; each of the very bytes that its line names."""
    files = [(root / name).read_bytes() for name in group]
    found_in = detector([load_image(io.BytesIO(data)) for data in files])
    return {
        name: _line(detections_to_line(name, found), hashlib.sha256(data).hexdigest(), fingerprint)
        for name, data, found in zip(group, files, found_in, strict=True)
    }


def _line(line: str, sha256: str, fingerprint: str) -> str:
    return json.dumps({**json.loads(line), "sha256": sha256, "detector": fingerprint}) + "\n"


def _lines_of(path: Path, images: Mapping[str, str], fingerprint: str) -> dict[str, str]:
    """Return the lines of a detections file that hold for these images and this detector, by file name.

    Raises:
        ConfigError: it has a whole line that this program did not write.
    """
    kept: dict[str, str] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in text.splitlines(keepends=True):
        if not line.endswith("\n"):  # of an attempt that was killed
            break
        try:
            row = json.loads(line)
            name, sha256, detector = row["filename"], row["sha256"], row["detector"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                "The folder has detections that came from elsewhere.",
                expected="no such file, or one of an earlier run of --detections auto",
                found=line[:80].strip(),
                where=str(path),
                fix=f"score with `--detections {path}`, or move the file away to detect anew",
            ) from error
        if images.get(name) == sha256 and detector == fingerprint:
            kept[name] = line
    return kept


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write(path: Path, lines: Mapping[str, str]) -> None:
    write_atomically(path, "".join(lines.values()).encode())
