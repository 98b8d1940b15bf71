"""How much an arm in rounds has still to draw, at least and at most, before anything of it is known."""

from __future__ import annotations

from softalign.stages.ending import time_text
from softalign.stages.held_rounds import lent_report
from softalign.stages.predicted_drawing import measured_call_s
from softalign.stages.requests import StageInputs


def rounds_text(given: StageInputs, *, is_ready: bool) -> str:
    """Return the least and most images that an arm has still to draw, and how long that takes where it is known.

    Args:
        given: what the arm starts from; its recipe is fixed to the next round.
        is_ready: all that it takes is published.
    """
    from softalign.evaluation.suites import suite_prompts

    evaluate, lent = given.recipe.evaluate, lent_report(given) if is_ready else None
    there = 0 if lent is None else lent.num_images
    prompts = len(suite_prompts(evaluate))
    least, most = (max(prompts * rounds - there, 0) for rounds in (evaluate.num_rounds, evaluate.images_per_prompt))
    said = f"in rounds, {least:,} to {most:,} images"
    backbone, arm = given.recipe.backbone, evaluate.of_arm(given.evaluated_arm)
    call_s = measured_call_s(backbone, arm.side_px(backbone), given.store)
    if call_s is None:
        return said
    image_s = call_s * arm.denoiser_calls_per_image
    return (
        f"{said}, about {time_text(least * image_s)} to {time_text(most * image_s)} at the rate of an earlier arm here"
    )
