"""Images of an arm in rounds: round r is image r of every prompt, with the noise that image has in any evaluation.

So what was drawn in fewer rounds is a part of what more rounds draw, and the other way round. Batches are cut within a
round, of images to draw and to look at: they are the same whether rounds are drawn one by one, in one go, or after an
interruption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from softalign.evaluation.packs import ArmImages
from softalign.evaluation.suites import known_classes
from softalign.geneval.completeness import Suite
from softalign.geneval.detections import Detection, read_detections
from softalign.geneval.layout import image_filename
from softalign.sampling.sampling import ImageRequest, requests_of
from softalign.store.files import replacing

Detections = Mapping[str, Sequence[Detection]]
"""By an image's file name in the official layout."""


@dataclass(frozen=True, slots=True)
class ImageOrder:
    """The images of an arm in the order they are made and looked at.

    Attributes:
        images: where each is made.
        round_size: they are rounds of so many, which no batch goes beyond; None: they are none.
        known: what some of them show.
        lent: the folder of the published arm that those are of.
    """

    images: tuple[ImageRequest, ...]
    round_size: int | None
    known: Detections
    lent: Path | None = None

    def batches_to_detect(self, root: Path, batch_size: int) -> list[list[str]]:
        """Return the file names, below the images' folder, of those that are not known yet, in batches."""
        names = [image.path.relative_to(root).as_posix() for image in self.images]
        size = self.round_size or len(names)
        rounds = [
            [name for name in names[start : start + size] if name not in self.known]
            for start in range(0, len(names), size)
        ]
        return [one[start : start + batch_size] for one in rounds for start in range(0, len(one), batch_size)]


def image_order(
    suite: Suite, root: Path, known: Detections, lent: Path | None = None, *, is_in_rounds: bool
) -> ImageOrder:
    """Return an arm's images below a folder: round by round, or prompt by prompt."""
    images = requests_of(suite.prompts, suite.images_per_prompt, root)
    if is_in_rounds:
        images.sort(key=lambda image: (image.image_index, image.prompt_index))
    return ImageOrder(tuple(images), len(suite.prompts) if is_in_rounds else None, known, lent)


def borrow(lent: ArmImages, detections_path: Path, suite: Suite, root: Path) -> Detections:
    """Put those images of a suite that a published arm has below a folder, and return what they show.

    Args:
        lent: the arm's images.
        detections_path: what they show.
        suite: whose images are wanted.
        root: the folder, in the official layout.

    Raises:
        IntegrityError: the arm's files are not what was published.
        DataError: its detections cannot be read.
    """
    folders = lent.folders()
    wanted = {
        image_filename(prompt, image)
        for prompt in range(len(suite.prompts))
        for image in range(suite.images_per_prompt)
    }
    shared = [filename for folder in folders for filename in folder.filenames if filename in wanted]
    for filename in shared:
        if not (root / filename).is_file():
            with replacing(root / filename, is_synced=False) as made:
                made.write_bytes(lent.read(filename))
    shown = read_detections(detections_path, known_classes(folders))
    return {filename: shown[filename] for filename in shared}
