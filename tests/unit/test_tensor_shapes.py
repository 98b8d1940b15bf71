"""Public functions say their tensors' shapes, and a call with others is refused in tests (``tests.shape_checks``)."""

import importlib
import inspect
import pkgutil
import re

import pytest
import torch
from jaxtyping import TypeCheckError

from softalign import backbones
from softalign.method.forward_process import DDPMProcess, FlowProcess, NoiseDraw
from softalign.method.objective import agsm_loss, plackett_luce_weights, squared_error
from softalign.method.soft_tokens import SoftTokens
from softalign.method.text_states import TextStates
from softalign.training.pair_grid import Pairs
from tests.shape_checks import MODULES
from tests.tiny_families import FAMILIES

NAMES = [*MODULES, *(f"softalign.backbones.{module.name}" for module in pkgutil.iter_modules(backbones.__path__))]
TOKENS = SoftTokens(torch.zeros(2, 3, 4), torch.zeros(100, 4))
DRAW = NoiseDraw(torch.zeros(2), torch.zeros(2, 4, 8, 8))


def public_annotations(module):
    """Yield each public function's, method's and dataclass field's annotation, as it is written."""
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        owners = [member, *vars(member).values()] if inspect.isclass(member) else [member]
        for owner in owners:
            function = inspect.unwrap(getattr(owner, "fget", owner))
            own = getattr(function, "__name__", "")
            if not own.startswith("_") or own == "__init__":
                yield from getattr(function, "__annotations__", {}).items()


@pytest.mark.parametrize("name", NAMES)
def test_every_public_tensor_has_a_shape(name):
    hints = [str(hint) for _, hint in public_annotations(importlib.import_module(name))]
    assert not [hint for hint in hints if "Tensor" in re.sub(r"\w+\[Tensor, '[^']*'\]", "", hint)]


def test_the_check_above_sees_annotations():
    found = dict(public_annotations(importlib.import_module("softalign.method.text_states")))
    assert found["prompt_embeds_NLD"] == "Float[Tensor, 'N L D']"
    assert found["index_N"].startswith("Int[Tensor,")


WRONG = {
    "rank": lambda: agsm_loss(torch.zeros(2, 2), torch.ones(2, dtype=torch.bool)),
    "axes that differ": lambda: plackett_luce_weights(torch.zeros(2, 3), torch.ones(2, 2, dtype=torch.bool), 1.0),
    "dtype": lambda: agsm_loss(torch.zeros(2), torch.ones(2)),
    "broadcast": lambda: squared_error(torch.zeros(2, 3, 4, 8, 8), torch.zeros(3, 4, 8, 8, 2)),
    "field": lambda: TextStates(torch.zeros(2, 5)),
    "fields that differ": lambda: TextStates(torch.zeros(2, 5, 8), torch.zeros(3, 8)),
    "pairs": lambda: Pairs(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0])),
    "layers": lambda: SoftTokens(torch.zeros(3, 4), torch.zeros(100, 4)),
    "forward": lambda: TOKENS(torch.zeros(2), torch.zeros(3, dtype=torch.int64)),
    "ddpm": lambda: DDPMProcess(torch.linspace(1, 0, 1000), "epsilon").diffuse(torch.zeros(2, 4, 8), DRAW),
    "flow": lambda: FlowProcess(3.0).diffuse(torch.zeros(4, 8, 8), DRAW),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_a_wrong_shape_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()


@pytest.mark.parametrize("name", ["sd15", "sd3"])
def test_a_denoiser_refuses_rows_that_do_not_fit(name):
    family = FAMILIES[name]
    tokens = family.tokens(2, seed=0)
    denoiser = family.denoiser(tokens)
    latents, timesteps = torch.zeros(2, 4, 8, 8, dtype=torch.float64), torch.tensor([1, 1])
    with pytest.raises(TypeCheckError):
        denoiser.predict(latents, timesteps, family.text(2, seed=0), tokens, torch.tensor([0]))
    denoiser.close()
