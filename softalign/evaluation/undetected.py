"""Images that are drawn and cannot be scored here yet."""

from __future__ import annotations

from pathlib import Path

from softalign.config.evaluation import EvalConfig
from softalign.errors import MissingInputError, UndetectedError
from softalign.evaluation.suites import check_detector


def require_detector(config: EvalConfig, images: Path) -> None:
    """Require what scores the images of an arm.

    Raises:
        UndetectedError: the suite's detector, or a metric's model, is not there; says where the images are.
    """
    try:
        check_detector(config)
    except MissingInputError as error:
        raise UndetectedError(
            f"The images are drawn and kept, and nothing here can score them yet. {error.what}",
            expected=error.expected,
            found=", ".join(text for text in (error.found, error.where) if text),
            where=str(images),
            fix=". ".join(text for text in (error.fix, "The same command goes on from the images then") if text),
        ) from error
