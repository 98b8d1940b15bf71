"""softalign: post-trains text-to-image diffusion models for text alignment, without rewards, as an operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softalign.version import __version__

if TYPE_CHECKING:
    from softalign.adapters.attach import AdapterHandle, load_soft_tokens, loaded_tokens, unload_soft_tokens
    from softalign.sampling.flow_edit import FlowEditSettings
    from softalign.sampling.image_editing import edit_image

__all__ = [
    "AdapterHandle",
    "FlowEditSettings",
    "__version__",
    "edit_image",
    "load_soft_tokens",
    "loaded_tokens",
    "unload_soft_tokens",
]
_EDITING = ("FlowEditSettings", "edit_image")


def __getattr__(name: str) -> Any:
    """Load the consumer's names on first use: ``import softalign`` alone loads no torch."""
    if name in _EDITING:
        from softalign.sampling import image_editing

        return getattr(image_editing, name)
    if name in __all__:
        from softalign.adapters import attach

        return getattr(attach, name)
    raise AttributeError(f"module 'softalign' has no attribute {name!r}")
