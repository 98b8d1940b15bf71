"""AnimateDiff makes a new U-Net of a pipeline's own: soft tokens do not come along, and this says so."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from torch import nn
from torch.utils.hooks import RemovableHandle

_MAKER = "from_unet2d"
"""Method of diffusers that copies the weights of each part of a U-Net into one for videos."""


def say_when_left_behind(part: nn.Module) -> RemovableHandle:
    """Warn when a U-Net for videos is made of the one this part belongs to, until the handle is removed."""
    handle: RemovableHandle = part.register_state_dict_pre_hook(_warn)  # type: ignore[no-untyped-call]
    return handle


def _warn(_part: nn.Module, prefix: str, _keep_vars: bool) -> None:
    if not prefix and _is_called_by_maker(sys._getframe()):
        warnings.warn(
            "The soft tokens stay with this U-Net: the one for videos is made without them. "
            "Call load_soft_tokens with the new pipeline.",
            stacklevel=4,
        )


def _is_called_by_maker(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == _MAKER:
            return True
        frame = frame.f_back
    return False
