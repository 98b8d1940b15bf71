"""Makes a denoiser that was compiled in place (``denoiser.compile()``) notice that hooks came or went.

torch.compile does not look at hooks again, but at what ``forward`` of an instance is: while tokens are attached it is
the same forward behind a name of their own. Other compiled models are left alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import nn


class _Named:
    def __init__(self, forward: Any, name: str) -> None:
        self.forward, self.name = forward, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the forward; reading the name is what torch.compile guards."""
        assert self.name  # noqa: S101
        return self.forward(*args, **kwargs)


class Noticed:
    """The mark on a compiled denoiser, until ``remove``; it keeps neither the denoiser nor its weights alive.

    Args:
        denoiser: compiled in place.
        name: differs between what shall be told apart.
    """

    def __init__(self, denoiser: nn.Module, name: str) -> None:
        self._before = denoiser.__dict__.get("forward")
        mark = _Named(denoiser.forward, name)
        denoiser.__dict__["forward"] = mark
        self._denoiser: Callable[[], nn.Module | None]
        self._mark: Callable[[], _Named | None]
        self._denoiser, self._mark = weakref.ref(denoiser), weakref.ref(mark)

    def __deepcopy__(self, memo: dict[int, Any]) -> Noticed:
        """Return a mark with nothing to remove: a copy of a compiled denoiser is not compiled."""
        copied = object.__new__(Noticed)
        copied._before, copied._denoiser, copied._mark = None, _gone, _gone
        return copied

    def remove(self) -> None:
        """Take the mark off, unless another forward has taken its place."""
        denoiser, mark = self._denoiser(), self._mark()
        if denoiser is None or denoiser.__dict__.get("forward") is not mark:
            return
        del denoiser.__dict__["forward"]
        if self._before is not None:
            denoiser.__dict__["forward"] = self._before


def _gone() -> None:
    return None
