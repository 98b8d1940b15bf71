"""Images that compress like photographs, and columns of them for the page: flat colours would prove nothing.

Natural images have amplitudes that fall with frequency (D. J. Field, 1987): noise of that spectrum in three correlated
channels, with a few edges. Its thumbnails are 4 to 9 % larger than those of COCO's photographs (48 to 128 pixels).
"""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from softalign.evaluation.intervals import counts_by_tag, score_intervals
from softalign.evaluation.report.charts import Curve
from softalign.evaluation.report.columns import ARM_LABELS, Column, Pair
from softalign.evaluation.report.gallery import ShownImages
from softalign.evaluation.report.rendering import Page
from softalign.evaluation.report.sets_page import _pair_of
from softalign.evaluation.set_comparison import _pair
from softalign.geneval.detections import Detection
from softalign.geneval.layout import image_filename
from softalign.geneval.prompts import CLASSES, GenevalPrompt
from softalign.geneval.scoring import score_image

SHARE_CHANGED = 0.12
"""Of an arm's images, whose verdict is drawn again: arms of one noise are mostly alike."""


@cache
def photograph(number: int, side_px: int = 512) -> bytes:
    """Return a photograph-like JPEG file."""
    rng = np.random.default_rng(number)
    frequencies = np.hypot(np.fft.fftfreq(side_px)[:, None], np.fft.rfftfreq(side_px)[None])
    frequencies[0, 0] = np.inf
    noise = [np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side_px, side_px))) / frequencies**1.4) for _ in range(3)]
    light, first, second = (channel / channel.std() for channel in noise)
    rgb = np.stack([light + 0.35 * first, light - 0.1 * first - 0.15 * second, light + 0.4 * second], -1)
    rows, columns = np.mgrid[:side_px, :side_px]
    for _ in range(4):
        x, y, radius = rng.uniform(0, side_px, 3)
        rgb[(columns - x) ** 2 + (rows - y) ** 2 < (radius / 2) ** 2] += rng.normal(0, 0.8, 3)
    buffer = io.BytesIO()
    Image.fromarray(np.clip(128 + 45 * rgb, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def reader(column: int, num_pictures: int) -> Callable[[str], Callable[[], bytes]]:
    """Return the reader of a column's images; none compresses with another, so a few serve for many."""
    return lambda filename: lambda: photograph((hash_of(filename) + 7 * column) % num_pictures)


def box_of(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Return a box within an image of 512 pixels."""
    (x0, x1), (y0, y1) = np.sort(rng.uniform(0, 512, (2, 2)))
    return float(x0), float(y0), float(x1), float(y1)


def hash_of(filename: str) -> int:
    """Return a number of a file name, the same in every process."""
    return sum(map(ord, filename)) * 31 + int(filename[:5])


def shown_column(
    prompts: tuple[GenevalPrompt, ...], images_per_prompt: int, column: int, num_pictures: int
) -> ShownImages:
    """Return images of which about half are right, each with some objects that count and some that do not."""
    results, detections = [], {}
    for index, prompt in enumerate(prompts):
        for image in range(images_per_prompt):
            filename = image_filename(index, image)
            own = np.random.default_rng([column, index, image])
            rng = own if own.random() < SHARE_CHANGED else np.random.default_rng([index, image])
            wanted = [(one.class_name, one.color) for one in prompt.include for _ in range(one.count)]
            names = [wanted[i] for i in range(len(wanted)) if rng.random() < 0.8]
            names += [(CLASSES[int(rng.integers(len(CLASSES)))], None) for _ in range(3)]
            detections[filename] = [
                Detection(class_name=name, score=score, box=box_of(rng), color=color or "red")
                for (name, color), score in zip(names, rng.uniform(0.2, 1.0, len(names)), strict=True)
            ]
            results.append(score_image(prompt, filename, detections[filename]))
    return ShownImages(tuple(results), reader(column, num_pictures), detections)


def photograph_page(
    prompts: tuple[GenevalPrompt, ...], images_per_prompt: int, arms: tuple[str, ...], num_pictures: int = 8
) -> Page:
    """Return the page of an evaluation of photographs, with curves of a long training."""
    shown = tuple(shown_column(prompts, images_per_prompt, number, num_pictures) for number in range(len(arms)))
    columns = tuple(map(column_of, arms, shown))
    pairs = tuple(pair_of(shown, columns, number) for number in range(len(arms) - 1))
    steps = tuple(float(step) for step in range(2000))
    curves = tuple(
        Curve(title, steps, tuple(np.cos(np.arange(2000.0)))) for title in ("Loss", "Win rate", "Match weight")
    )
    return Page(
        title="Evaluation of photographs",
        verdict="The adapter cannot be told apart from the base model (+0.3 points), at 95 % confidence.",
        notes=("The arms were compared at guidance 7: 60 denoiser calls an image. Sampler DDIMScheduler, 30 steps.",),
        num_prompts=len(prompts),
        confidence=0.95,
        columns=columns,
        pairs=pairs,
        shown=shown,
        planned_detectable=0.03,
        curves=curves,
    )


def column_of(arm: str, shown: ShownImages) -> Column:
    """Return an arm's column."""
    intervals = score_intervals(counts_by_tag(shown.results), num_bootstrap=100, confidence=0.95, seed=0)
    overall = intervals.pop("overall")
    return Column(arm, ARM_LABELS[arm], arm, "geneval-hf", overall, intervals, len(shown.results) // 4)


def pair_of(shown: tuple[ShownImages, ...], columns: tuple[Column, ...], reference: int) -> Pair:
    """Return the last column beside another."""
    found = _pair_of(_pair([shown[reference].results, shown[-1].results], 1, 0))
    title = f"{columns[-1].label} − {columns[reference].label}"
    return Pair(len(shown) - 1, reference, title, found.differences, found.statistics)
