"""Checks the tensors' annotated shapes and dtypes at every call: jaxtyping's import hook for the tests' own process."""

import inspect
from contextlib import contextmanager, suppress
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import jaxtyping
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


_jaxtyped = jaxtyping.jaxtyped


def install():
    """Check these modules' functions and dataclasses from their first import on, which must come after this."""
    install_import_hook(MODULES, f"{__name__}.tensors_alone")
    jaxtyping.jaxtyped = where_a_shape_is_said  # the name that the hook's code calls


def where_a_shape_is_said(*, typechecker):
    """Leave functions that say no shape as they are: binding their arguments took a quarter of a small training."""
    check = _jaxtyped(typechecker=typechecker)

    def decorate(target):
        is_plain = inspect.isfunction(target) and not any(says_a_shape(hint) for hint in hints_of(target))
        return target if is_plain else check(target)

    return decorate


def hints_of(function):
    """Return what a function's annotations mean, without those whose names are known to type checkers alone."""
    meanings = []
    for hint in function.__annotations__.values():
        alone = SimpleNamespace(__annotations__={"hint": hint})
        with suppress(NameError):
            meanings.append(get_type_hints(alone, function.__globals__)["hint"])
    return meanings


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
