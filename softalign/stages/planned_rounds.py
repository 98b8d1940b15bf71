"""How much an arm in rounds has still to draw, at least and at most, before anything of it is known."""

from __future__ import annotations

from pydantic import ValidationError

from softalign.artifacts import EvalReport, Usage
from softalign.errors import MissingInputError
from softalign.stages.asked_before import published_requests
from softalign.stages.ending import time_text
from softalign.stages.held_rounds import lent_report
from softalign.stages.requests import StageInputs, StageRequest
from softalign.store.files import read_bytes
from softalign.store.store import Store
from softalign.store.usage import USAGE_FILENAME

AS_LONG = ("suite", "num_inference_steps", "guidance_scale", "resolution_px")
"""Fields that decide how long an image takes, beside the model."""


def rounds_text(given: StageInputs, request: StageRequest, *, is_ready: bool) -> str:
    """Return the least and most images that an arm has still to draw, and how long that takes where it is known.

    Args:
        given: what the arm starts from; its recipe is fixed to the next round.
        request: what it is asked for.
        is_ready: all that it takes is published.
    """
    from softalign.evaluation.suites import suite_prompts

    evaluate, lent = given.recipe.evaluate, lent_report(given) if is_ready else None
    there = 0 if lent is None else lent.num_images
    prompts = len(suite_prompts(evaluate))
    least, most = (max(prompts * rounds - there, 0) for rounds in (evaluate.num_rounds, evaluate.images_per_prompt))
    said = f"in rounds, {least:,} to {most:,} images"
    rate = _images_per_s(request, given.store)
    if not rate:
        return said
    return f"{said}, about {time_text(least / rate)} to {time_text(most / rate)} at the rate of an earlier arm here"


def _images_per_s(request: StageRequest, store: Store) -> float | None:
    """Return how many images a second the newest arm of such images had; None where the store has none."""
    found = sorted(published_requests(EvalReport.stage, store), key=lambda one: -one[0])
    rates = (_rate(prefix) for _, prefix, other in found if _what_takes_time(other) == _what_takes_time(request))
    return next((rate for rate in rates if rate), None)


def _what_takes_time(request: StageRequest) -> tuple[object, ...]:
    evaluate = request.config.get("evaluate", {})
    return request.config.get("backbone"), *(evaluate.get(name) for name in AS_LONG)


def _rate(prefix: str) -> float | None:
    try:
        return Usage.model_validate_json(read_bytes(f"{prefix}/{USAGE_FILENAME}")).rates.get("images")
    except (MissingInputError, ValidationError):
        return None
