"""Images of an arm in rounds: round r is image r of every prompt, with the noise that image has in any evaluation.

So what was drawn in fewer rounds is a part of what more rounds draw, and the other way round. Batches are cut within a
round: they are the same whether rounds are drawn one by one, in one go, or after an interruption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from softalign.evaluation.packs import ArmImages
from softalign.geneval.completeness import Suite
from softalign.geneval.layout import image_filename
from softalign.sampling.sampling import ImageRequest
from softalign.store.files import replacing


@dataclass(frozen=True, slots=True)
class Requests:
    """Images to make, in order; with ``round_size`` in rounds of so many, which no batch goes beyond."""

    images: tuple[ImageRequest, ...]
    round_size: int | None


def image_requests(suite: Suite, root: Path, *, is_in_rounds: bool) -> Requests:
    """Return an arm's images below a folder: round by round, or prompt by prompt."""
    prompts, images = range(len(suite.prompts)), range(suite.images_per_prompt)
    numbers = [(prompt, image) for prompt in prompts for image in images]
    if is_in_rounds:
        numbers.sort(key=lambda pair: pair[::-1])
    return Requests(
        images=tuple(
            ImageRequest(suite.prompts[prompt].prompt, prompt, image, root / image_filename(prompt, image))
            for prompt, image in numbers
        ),
        round_size=len(prompts) if is_in_rounds else None,
    )


def borrow_images(lent: ArmImages, suite: Suite, root: Path) -> None:
    """Put those images of a suite that a published arm has below a folder, where they are not there yet.

    Raises:
        IntegrityError: the arm's files are not what was published.
    """
    there = {filename for folder in lent.folders() for filename in folder.filenames}
    for prompt in range(len(suite.prompts)):
        for image in range(suite.images_per_prompt):
            filename = image_filename(prompt, image)
            if filename in there and not (root / filename).is_file():
                with replacing(root / filename, is_synced=False) as made:
                    made.write_bytes(lent.read(filename))
