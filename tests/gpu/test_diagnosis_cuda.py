"""A diagnosis on CUDA in the dtype that training uses there, beside float32 on the CPU.

Run there with ``pytest -m gpu tests/gpu``; the same tests run on the CPU in every other run.
"""

import pytest
import torch

from softalign.backbones.frozen_pipeline import backbone_dtype
from softalign.diagnosis.measuring import measure
from tests.unit.diagnosis.tiny_subject import IMAGES, tiny_subject

AT = 500


@pytest.mark.parametrize("name", ["sdxl", "sd3"])
def test_what_is_measured_is_that_of_the_cpu(any_device, name):
    plain = measure(tiny_subject(name, dtype=torch.float32), IMAGES, seed=1, rows_per_call=4, timesteps=(AT,))
    subject = tiny_subject(name, dtype=torch.float32, module_dtype=backbone_dtype(any_device), device=any_device)
    found = measure(subject, IMAGES, seed=1, rows_per_call=4, timesteps=(AT,))
    for ours, theirs in zip(found.attention, plain.attention, strict=True):
        assert ours.tokens.mean == pytest.approx(theirs.tokens.mean, rel=0.05)
        assert ours.text.mean == pytest.approx(theirs.text.mean, rel=0.05)
    assert found.changes[0].guidance.mean == pytest.approx(plain.changes[0].guidance.mean, rel=0.1)
    assert found.own_errors[0].base.mean == pytest.approx(plain.own_errors[0].base.mean, rel=0.05)
    norms = {(one.arm, one.loss_part, one.parameter): one.norm.mean for one in plain.gradients}
    for one in found.gradients:
        assert one.norm.mean == pytest.approx(norms.pop((one.arm, one.loss_part, one.parameter)), rel=0.5)
    assert not norms
