"""A peer's checkpoint without pickles: the papers' tensors under the papers' names, in one safetensors file.

    softrepa.safetensors   dc_tokens      dc_t_tokens
    agsm.safetensors       soft_tokens    soft_t_tokens

Shapes are those of the peers' own files (``peer_files``). What these do not say stands in the file's header: the
family, and where the tokens stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from softalign.adapters.weights import read_tensors, require_finite
from softalign.artifacts import canonical_json
from softalign.errors import DataError

SUFFIX = ".safetensors"
FORMAT = "softalign.peers"
_TEXTS = TypeAdapter(dict[str, str])


def write_peer_file(path: Path, tensors: dict[str, Tensor], stated: Mapping[str, str]) -> None:
    """Write tensors by the papers' names; ``stated``: what the papers' files do not say."""
    header = {FORMAT: canonical_json(dict(stated)).decode()}  # one entry: several would have no order
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, header)


def read_peer_file(path: Path, names: tuple[str, str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file and what its header states.

    Args:
        path: the file.
        names: of the tokens, and of the table, which may be absent.

    Raises:
        DataError: it is no such file.
        IntegrityError: it is damaged, or holds numbers that are not finite.
    """
    tensors = read_tensors(path)
    require_finite(tensors, str(path))
    stated = _stated(path)
    if stated is None or names[0] not in tensors or not set(tensors) <= set(names):
        raise DataError(
            "This is no checkpoint that `softalign export --format peers` wrote.",
            expected=f"{names[0]}, and {names[1]} where there is a table",
            found=", ".join(sorted(tensors)) or "no tensor",
            where=str(path),
        )
    return tensors, stated


def _stated(path: Path) -> dict[str, str] | None:
    with safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get(FORMAT, "")
    try:
        return _TEXTS.validate_json(header)
    except ValidationError:
        return None
