"""Where the tests of this folder compute."""

import os

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from softalign.backbones.frozen_pipeline import resolve_device
from softalign.config import Runtime

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; without it its sums vary


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def any_device(request):
    """CUDA where ``-m gpu`` asks for it; the CPU in every run, so that a test that nobody ran on CUDA still works."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return resolve_device(Runtime(device=request.param))


@pytest.fixture
def deterministic():
    """Use kernels that add in one order, as far as CUDA has such."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
