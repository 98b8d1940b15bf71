"""Compiled blocks predict and differentiate as the plain ones, under hooks and kept rows."""

import pytest
import torch
from torch import nn

from softalign.backbones.compiled_blocks import compile_blocks
from softalign.config import AGSMConfig
from softalign.errors import CompatibilityError
from tests.unit.backbones.test_row_cache import Case


@pytest.fixture(autouse=True)
def fresh_compiler(without_shape_checks):
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def assert_equal_to_plain(family, backend):
    case = Case(family)
    plain, plain_gradients = case.gradients(AGSMConfig(), 4, is_kept=True)
    forwards = {name: module.forward for name, module in case.denoiser.module.named_modules()}
    number = compile_blocks(case.denoiser.module, backend)
    changed = [name for name, module in case.denoiser.module.named_modules() if module.forward != forwards[name]]
    assert number == len(changed) > 1
    for _ in range(2):  # the second step runs what the first one compiled
        compiled, compiled_gradients = case.gradients(AGSMConfig(), 4, is_kept=True)
        assert torch.allclose(plain.errors_N, compiled.errors_N, rtol=1e-10, atol=1e-12)
        for left, right in zip(plain_gradients, compiled_gradients, strict=True):
            assert left.abs().max() > 1e-6
            assert torch.allclose(left, right, rtol=1e-8, atol=1e-12)
    case.denoiser.close()


@pytest.mark.parametrize("family", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("sd15", "sdxl")), "sd3"])
def test_errors_and_gradients_are_those_of_the_plain_blocks(family):
    assert_equal_to_plain(family, "eager")


@pytest.mark.slow  # compiles C++
@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3"])
def test_so_they_are_with_generated_code(family):
    assert_equal_to_plain(family, "inductor")


def test_a_denoiser_without_known_blocks_is_refused():
    with pytest.raises(CompatibilityError, match="block by block"):
        compile_blocks(nn.Linear(2, 2))
