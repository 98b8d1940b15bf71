"""The files that SoftREPA and AGSM save, read without running code of their pickles.

Both projects save with ``torch.save``: an ``nn.Parameter`` with the tokens, and, where there is a timestep table, a
whole pickled ``nn.Embedding``. ``nn.Embedding`` is the only class allowed beyond tensors.

    SoftREPA  dc_tokens.pth     (S, D), SD3 (N, S, D)          dc_t_tokens.pth     (100, D), SD3 (100, N * D)
    AGSM      soft_tokens.pth   the same with two banks first  soft_t_tokens.pth   the same

What ``softalign export`` writes for them holds the same without pickles, and says where the tokens stand
(``peer_safetensors``).

Shape legend: N layers, S soft tokens, D width.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softalign.adapters.peer_safetensors import SUFFIX, read_peer_file
from softalign.errors import ConfigError, DataError, MissingInputError

_PICKLED = ".pth"
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

    @property
    def tensor_names(self) -> tuple[str, str]:
        """What tokens and table are called: their files' names without the ending."""
        return self.tokens_name.removesuffix(_PICKLED), self.table_name.removesuffix(_PICKLED)

    @property
    def safetensors_name(self) -> str:
        """The one file that holds both without pickles."""
        return f"{self.name}{SUFFIX}"


FORMATS = (
    PeerFormat("softrepa", "SoftREPA", "dc_tokens.pth", "dc_t_tokens.pth", 1),
    PeerFormat("agsm", "AGSM", "soft_tokens.pth", "soft_t_tokens.pth", 2),
)


@dataclass(frozen=True)
class PeerCheckpoint:
    """A checkpoint that was found, read by what its files hold.

    Attributes:
        tokens_path: the file with the tokens.
        table_path: the file with the table, the same one without pickles; it need not be there.
        stated: what the header of a file without pickles says; empty for others.
        tensors: of a file without pickles; None: they are read when they are asked for.
    """

    project: PeerFormat
    tokens_path: Path
    table_path: Path
    stated: Mapping[str, str] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] | None = None

    @property
    def has_table(self) -> bool:
        """Whether there is a timestep table."""
        if self.tensors is not None:
            return self.project.tensor_names[1] in self.tensors
        return self.table_path.is_file()

    def tokens(self) -> Tensor:
        """Return the tokens, float32; see ``read_tokens``."""
        return read_tokens(self.tokens_path) if self.tensors is None else self._own(0)

    def table(self) -> Tensor:
        """Return the timestep table, float32; see ``read_table``."""
        return read_table(self.table_path) if self.tensors is None else self._own(1)

    def _own(self, which: int) -> Tensor:
        assert self.tensors is not None  # noqa: S101
        return _float32(self.tensors[self.project.tensor_names[which]], self.tokens_path)


def checkpoint_in(peer: Path) -> PeerCheckpoint:
    """Return the checkpoint that a folder holds, by the name of the tokens' file.

    Raises:
        MissingInputError: it holds neither project's.
        ConfigError: it holds several.
        DataError: a file without pickles is not one that this library writes.
    """
    names = [(one, name) for one in FORMATS for name in (one.tokens_name, one.safetensors_name)]
    found = [(one, name) for one, name in names if (peer / name).is_file()]
    expected = " or ".join(f"{one.tokens_name} ({one.title}), beside it {one.table_name}" for one in FORMATS)
    if not found:
        there = sorted(path.name for path in peer.glob(f"*{_PICKLED}")) if peer.is_dir() else []
        raise MissingInputError(
            "There is no checkpoint of SoftREPA or AGSM.",
            expected=expected,
            found=", ".join(there) or f"no {_PICKLED} file",
            where=str(peer),
        )
    if len(found) > 1:
        are_two = len({one.name for one, _ in found}) > 1
        raise ConfigError(
            "The folder holds checkpoints of both projects." if are_two else "The folder holds the checkpoint twice.",
            expected=expected,
            found=", ".join(name for _, name in found),
            where=str(peer),
            fix="move one of them into a folder of its own",
        )
    project, name = found[0]
    path = peer / name
    if name == project.tokens_name:
        return PeerCheckpoint(project, path, peer / project.table_name)
    tensors, stated = read_peer_file(path, project.tensor_names)
    return PeerCheckpoint(project, path, path, stated, tensors)


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
