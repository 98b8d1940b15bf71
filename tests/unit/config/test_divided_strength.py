"""Where ``evaluate.divide_by_guidance`` is asked for, and where it is the same as not."""

import pytest
from pydantic import ValidationError

from softalign.config.evaluation import EvalConfig

DIVIDED = EvalConfig(suite="shapes", guidance_scale=4.0, guidance_sweep=(1.0, 2.0), divide_by_guidance=True)
PLAIN = DIVIDED.model_copy(update={"divide_by_guidance": False})


def test_requests_without_it_are_as_they_were_before_there_was_any():
    assert "divide_by_guidance" not in PLAIN.asked()
    assert DIVIDED.asked() == {**PLAIN.asked(), "divide_by_guidance": True}


def test_it_concerns_arms_with_tokens_and_guidance_alone():
    assert DIVIDED.of_arm("adapter").divide_by_guidance
    assert DIVIDED.at_guidance(2.0).of_arm("untrained").divide_by_guidance
    assert DIVIDED.of_arm("base").asked() == PLAIN.of_arm("base").asked()
    without = [config.at_guidance(1.0).of_arm("adapter").asked() for config in (DIVIDED, PLAIN)]
    assert without[0] == without[1]


def test_without_guidance_it_is_refused():
    with pytest.raises(ValidationError, match="divide_by_guidance has no effect"):
        EvalConfig(suite="shapes", guidance_scale=1.0, divide_by_guidance=True)
    assert EvalConfig(suite="shapes", guidance_scale=1.0, guidance_sweep=(2.0,), divide_by_guidance=True)
