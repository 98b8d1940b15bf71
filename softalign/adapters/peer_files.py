"""The files that SoftREPA and AGSM save, read without running code of their pickles.

Both projects save with ``torch.save``: an ``nn.Parameter`` with the tokens, and, where there is a timestep table, a
whole pickled ``nn.Embedding``. ``nn.Embedding`` is the only class allowed beyond tensors.

    SoftREPA  dc_tokens.pth     (S, D), SD3 (N, S, D)          dc_t_tokens.pth     (100, D), SD3 (100, N * D)
    AGSM      soft_tokens.pth   the same with two banks first  soft_t_tokens.pth   the same

Shape legend: N layers, S soft tokens, D width.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softalign.errors import ConfigError, DataError, MissingInputError

_EXACT_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What float32 holds without rounding."""


@dataclass(frozen=True)
class PeerFormat:
    """The files of a project, and how many banks they hold."""

    name: Literal["softrepa", "agsm"]
    title: str
    tokens_name: str
    table_name: str
    num_banks: Literal[1, 2]


FORMATS = (
    PeerFormat("softrepa", "SoftREPA", "dc_tokens.pth", "dc_t_tokens.pth", 1),
    PeerFormat("agsm", "AGSM", "soft_tokens.pth", "soft_t_tokens.pth", 2),
)


def format_of(peer: Path) -> PeerFormat:
    """Return whose checkpoint a folder holds, by the name of the tokens' file.

    Raises:
        MissingInputError: it holds neither project's.
        ConfigError: it holds both projects'.
    """
    found = [one for one in FORMATS if (peer / one.tokens_name).is_file()]
    expected = " or ".join(f"{one.tokens_name} ({one.title}), beside it {one.table_name}" for one in FORMATS)
    if not found:
        names = sorted(path.name for path in peer.glob("*.pth")) if peer.is_dir() else []
        raise MissingInputError(
            "There is no checkpoint of SoftREPA or AGSM.",
            expected=expected,
            found=", ".join(names) or "no .pth file",
            where=str(peer),
        )
    if len(found) > 1:
        raise ConfigError(
            "The folder holds checkpoints of both projects.",
            expected=expected,
            where=str(peer),
            fix="move one of them into a folder of its own",
        )
    return found[0]


def read_tokens(path: Path) -> Tensor:
    """Return the tokens of a file, float32.

    Raises:
        DataError: it holds something else than one tensor of numbers.
    """
    return _float32(_read(path, []), path)


def read_table(path: Path) -> Tensor:
    """Return the timestep table of a file, float32.

    Raises:
        DataError: it holds something else than a plain embedding.
    """
    table = _read(path, [nn.Embedding])
    if type(table) is not nn.Embedding or set(vars(table).get("_parameters", ())) != {"weight"}:
        raise DataError(
            "The timestep table is not an embedding.",
            expected="nn.Embedding",
            found=type(table).__name__,
            where=str(path),
        )
    if vars(table).get("max_norm") is not None:
        raise DataError(
            "The timestep table rescales its rows when it is read.", expected="max_norm None", where=str(path)
        )
    return _float32(vars(table)["_parameters"]["weight"], path)


def _read(path: Path, allowed: list[Any]) -> Any:
    """Return what a file of ``torch.save`` holds, with no class but tensors and the allowed ones.

    Raises:
        DataError: it holds something else, or is damaged.
    """
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what damaged or hostile bytes raise is not bounded
        reason = re.search(r"(Unsupported global|Unsupported \w+|Trying to).*", str(error))
        raise DataError(
            "The file holds something else than a checkpoint's tensors, or is damaged; nothing of it was run.",
            expected="tensors" + "".join(f" and {kind.__name__}" for kind in allowed),
            found=(reason.group(0) if reason else str(error).splitlines()[0] if str(error) else type(error).__name__)[
                :300
            ],
            where=str(path),
            fix="do not load it in another way unless you trust who made it",
        ) from error


def _float32(value: Any, path: Path) -> Tensor:
    """Return a tensor's own numbers in float32.

    Raises:
        DataError: no dense tensor, a type float32 does not hold exactly, or numbers that are not finite.
    """
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta or value.is_quantized:
        raise DataError(
            "The file holds no tensor.", expected="a dense tensor", found=type(value).__name__, where=str(path)
        )
    if value.dtype not in _EXACT_DTYPES:
        raise DataError(
            "The tensor's type cannot be kept.",
            expected=", ".join(map(str, _EXACT_DTYPES)),
            found=str(value.dtype),
            where=str(path),
        )
    tensor = value.detach().to(torch.float32).clone()
    if not bool(torch.isfinite(tensor).all()):
        raise DataError("The tensor holds numbers that are not finite.", where=str(path))
    return tensor
