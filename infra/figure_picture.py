"""Images of base, untrained tokens and adapter side by side, each with its verdict: one prompt of every tag.

Shown is the prompt whose gain (adapter - base) lies nearest to its tag's mean gain, of several the first one, and of it
the first images: neither the best nor the worst.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from softalign.artifacts import EvalReport
from softalign.evaluation.packs import ArmImages
from softalign.geneval.scoring import RESULTS_FILENAME, ImageResult, read_results
from softalign.stages.published import Published
from softalign.store.store import Store

NUM_IMAGES = 4
IMAGE_PX, GAP_PX, FRAME_PX = 96, 14, 4
TEXT_PX, HEADER_PX, MARGIN_PX, ARM_GAP_PX = 300, 64, 24, 32
INK, FAINT, RIGHT, WRONG, PAPER = "#1f2328", "#59636e", "#1a7f37", "#cf222e", "#ffffff"
HEADINGS = {"base": "base model", "untrained": "untrained tokens", "adapter": "adapter"}


@dataclass(frozen=True)
class Arm:
    """One arm's report, with its results by prompt folder."""

    report: EvalReport
    images: ArmImages
    results: dict[str, tuple[ImageResult, ...]]


def picture(published: Published, store: Store) -> Image.Image:
    """Return the picture of a finished run."""
    arms = [_arm(report, store) for report in published.arm_reports.compared]
    folders = _typical_prompts(base=arms[0], adapter=arms[-1])
    arm_px = NUM_IMAGES * (IMAGE_PX + GAP_PX) - GAP_PX
    width = 2 * MARGIN_PX + TEXT_PX + len(arms) * (arm_px + ARM_GAP_PX)
    row_px = IMAGE_PX + 2 * GAP_PX
    canvas = Image.new("RGB", (width, HEADER_PX + len(folders) * row_px), PAPER)
    draw = ImageDraw.Draw(canvas)
    for number, arm in enumerate(arms):
        left = MARGIN_PX + TEXT_PX + ARM_GAP_PX + number * (arm_px + ARM_GAP_PX)
        heading = f"{HEADINGS[arm.report.arm]}: {arm.report.overall_score * 100:.1f} of 100"
        draw.text((left, HEADER_PX / 2), heading, INK, _font(26), anchor="lm")
        for row, folder in enumerate(folders):
            for place, result in enumerate(arm.results[folder][:NUM_IMAGES]):
                at = (left + place * (IMAGE_PX + GAP_PX), HEADER_PX + row * row_px)
                _paste(canvas, draw, arm.images.read(result.filename), at, is_right=result.correct)
    for row, folder in enumerate(folders):
        _describe(draw, arms[0].results[folder][0], HEADER_PX + row * row_px)
    return canvas.quantize(colors=256, dither=Image.Dither.NONE)


def _arm(report: EvalReport, store: Store) -> Arm:
    root = store.fetch(report)
    results: dict[str, tuple[ImageResult, ...]] = {}
    for result in read_results(root / RESULTS_FILENAME):
        results[result.folder] = (*results.get(result.folder, ()), result)
    return Arm(report, ArmImages(root), results)


def _typical_prompts(base: Arm, adapter: Arm) -> list[str]:
    """Return, for each tag in the suite's order, the folder of the prompt that gains most nearly what the tag gains."""
    gains: dict[str, dict[str, float]] = {}
    for folder, results in base.results.items():
        gain = _share(adapter.results[folder]) - _share(results)
        gains.setdefault(results[0].tag, {})[folder] = gain
    chosen = []
    for by_folder in gains.values():
        mean = sum(by_folder.values()) / len(by_folder)
        chosen.append(min(by_folder, key=lambda folder: (abs(by_folder[folder] - mean), folder)))
    return chosen


def _share(results: tuple[ImageResult, ...]) -> float:
    return sum(result.correct for result in results) / len(results)


def _paste(canvas: Image.Image, draw: ImageDraw.ImageDraw, file: bytes, at: tuple[int, int], *, is_right: bool) -> None:
    left, top = at
    with Image.open(io.BytesIO(file)) as image:
        resample = Image.Resampling.NEAREST if image.width < IMAGE_PX else Image.Resampling.LANCZOS
        canvas.paste(image.convert("RGB").resize((IMAGE_PX, IMAGE_PX), resample), at)
    color = RIGHT if is_right else WRONG
    box = (left - FRAME_PX, top - FRAME_PX, left + IMAGE_PX + FRAME_PX - 1, top + IMAGE_PX + FRAME_PX - 1)
    draw.rectangle(box, outline=color, width=FRAME_PX)
    center, radius = (left + IMAGE_PX - 6, top + IMAGE_PX - 6), 11
    draw.circle(center, radius, fill=color, outline=PAPER, width=2)
    _mark(draw, center, is_right=is_right)


def _mark(draw: ImageDraw.ImageDraw, center: tuple[int, int], *, is_right: bool) -> None:
    """Draw a tick or a cross, so that the verdict does not hang on its colour."""
    x, y = center
    if is_right:
        draw.line([(x - 5, y), (x - 1, y + 4), (x + 5, y - 4)], fill=PAPER, width=3)
        return
    draw.line([(x - 4, y - 4), (x + 4, y + 4)], fill=PAPER, width=3)
    draw.line([(x - 4, y + 4), (x + 4, y - 4)], fill=PAPER, width=3)


def _describe(draw: ImageDraw.ImageDraw, result: ImageResult, top: int) -> None:
    middle = top + IMAGE_PX / 2
    draw.text((MARGIN_PX, middle - 34), result.tag.replace("_", " "), FAINT, _font(19), anchor="lm")
    for number, line in enumerate(_wrapped(result.prompt)):
        draw.text((MARGIN_PX, middle - 6 + number * 26), line, INK, _font(22), anchor="lm")


def _wrapped(prompt: str) -> list[str]:
    lines = [""]
    for word in prompt.split():
        longer = f"{lines[-1]} {word}".strip()
        if _font(22).getlength(longer) <= TEXT_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
