"""What is looked at in a file of weights: its header's size, before it is read, and that its numbers are finite."""

from __future__ import annotations

from pathlib import Path

from softalign.errors import IntegrityError

MAX_HEADER_BYTES = 1 << 20
"""An adapter's header takes a kilobyte; the format allows 100 MB, which would be read before anything is known."""
MAX_CONFIG_BYTES = 4 << 20
_LENGTH_BYTES = 8
_FLOATS = {"F16", "F32", "F64"}
_FETCH = "do not use this file; fetch the adapter again from a place you trust"


def require_small_header(path: Path, where: str) -> None:
    """Look at the length that a safetensors file says its header has, before the header is read.

    Raises:
        IntegrityError: it is larger than the file, or than any adapter's.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if _LENGTH_BYTES + length > size_bytes or length > MAX_HEADER_BYTES:
        raise IntegrityError(
            "The adapter's weights are not a safetensors file of an adapter.",
            expected=f"a header of at most {MAX_HEADER_BYTES} bytes, within the file",
            found=f"one of {length} bytes, in a file of {size_bytes} bytes",
            where=where,
            fix=_FETCH,
        )


def require_finite(path: Path, where: str) -> None:
    """Read a safetensors file and look at every number; needs no torch.

    Raises:
        IntegrityError: it is none, or a number is NaN or infinite.
    """
    import numpy
    from safetensors import SafetensorError, safe_open

    require_small_header(path, where)
    try:
        with safe_open(str(path), framework="np") as file:
            names = [name for name in file.keys() if file.get_slice(name).get_dtype() in _FLOATS]
            broken = [name for name in names if not numpy.isfinite(file.get_tensor(name)).all()]
    except SafetensorError as error:
        what = "The adapter's weights are not a safetensors file."
        raise IntegrityError(what, found=str(error), where=where, fix=_FETCH) from error
    if broken:
        raise IntegrityError(
            "The adapter's weights hold numbers that are not finite.",
            expected="finite numbers",
            found=f"NaN or infinity in {', '.join(broken)}",
            where=where,
            fix="do not use this version; register one whose training stayed finite",
        )
