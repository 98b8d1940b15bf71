"""Weights of FID's Inception network that are random, the same everywhere, and keep signals of one size."""

import numpy as np
import torch

from softalign.metrics.inception import Inception


def random_state(seed=0):
    """Return a state in the names of the published file."""
    rng = np.random.default_rng(seed)
    state = {}
    with torch.device("meta"):
        shapes = {name: (value.shape, value.dtype) for name, value in Inception().state_dict().items()}
    for name, (shape, dtype) in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.zeros(shape, dtype=dtype)
            continue
        values = rng.standard_normal(shape, dtype=np.float32)
        if len(shape) > 1:
            values *= (2 / np.prod(shape[1:])) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            values = 1 + 0.1 * np.abs(values)
        else:
            values *= 0.1
        state[name] = torch.from_numpy(values)
    return state
