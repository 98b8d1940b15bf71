"""Checks the tensors' annotated shapes and dtypes at every call: jaxtyping's import hook for the tests' own process."""

from contextlib import contextmanager
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, config, install_import_hook

MODULES = tuple(
    f"softalign.{name}"
    for name in (
        "backbones",
        "data.encoding.reader",
        "method.forward_process",
        "method.objective",
        "method.soft_tokens",
        "method.text_states",
        "sampling.sampling",
        "training.metrics",
        "training.pair_grid",
        "training.start",
        "training.step",
        "training.validation",
    )
)


def install():
    """Check these modules' functions and dataclasses from their first import on, which must come after this."""
    install_import_hook(MODULES, f"{__name__}.tensors_alone")


@contextmanager
def disabled():
    """Call the functions unchecked while inside."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def tensors_alone(function):
    """Return a function that checks the annotations that say a shape; elsewhere tests may use stand-ins."""
    hints = function.__annotations__
    function.__annotations__ = {name: hint for name, hint in hints.items() if says_a_shape(hint)}
    return beartype(function)


def says_a_shape(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(says_a_shape(part) for part in get_args(hint))
