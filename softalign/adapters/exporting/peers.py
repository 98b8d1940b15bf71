"""An adapter in the layout of SoftREPA (one bank) or AGSM (two), for their code and for ``softalign convert``.

Their files are pickles, and none is written here: the tensors go into a safetensors file under the papers' names, with
the lines that make the papers' files of it. What their code does not do with tokens is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from torch import Tensor

from softalign.adapters.convert import NUM_TIMESTEP_BINS
from softalign.adapters.exporting.source import Source
from softalign.adapters.files import AdapterConfig, UNetPlacement
from softalign.adapters.peer_bases import PeerFamily
from softalign.adapters.peer_files import FORMATS, PeerFormat
from softalign.adapters.peer_safetensors import write_peer_file
from softalign.errors import CompatibilityError
from softalign.method.soft_tokens import SoftTokens

_AGSM_BLOCKS = ("down", "mid")
_README = """# {name} in the layout of {title}

`{file}` holds the tensors that {title}'s files hold, under their names: no pickles. Their code reads files of
`torch.save`; these lines make them, bit for bit:

```python
import torch
from safetensors.torch import load_file

tensors = load_file("{file}")
torch.save(torch.nn.Parameter(tensors["{tokens}"]), "{tokens_file}"){table}
```

Their files do not say where the tokens stand, so their scripts must be told: base model `{base_model}`, {num_tokens}
tokens {place}{no_table}. `softalign convert THIS_FOLDER OUT --backbone {family}` reads `{file}` back bit for bit; of a
base model of other sizes than the published one's add `--base FOLDER`, the base model in diffusers layout.

{left_out}
"""
_TABLE = """
table = torch.nn.Embedding.from_pretrained(tensors["{name}"], freeze=False)
torch.save(table, "{file}")"""


def write_peer_folder(source: Source, folder: Path) -> tuple[str, ...]:
    """Write the safetensors file and a README; return in sentences what is left out.

    Raises:
        CompatibilityError: the papers' code cannot do what the adapter does; says what would be lost.
    """
    project = next(one for one in FORMATS if one.num_banks == source.config.num_banks)
    _require_expressible(source.config, project)
    folder.mkdir(parents=True)
    write_peer_file(folder / project.safetensors_name, _tensors(source.tokens, project), _stated(source.config))
    left_out = _left_out(source.config)
    (folder / "README.md").write_text(_readme(source, project, left_out), encoding="utf-8")
    return left_out


def _tensors(tokens: SoftTokens, project: PeerFormat) -> dict[str, Tensor]:
    banks = tokens.banks.detach()
    found = {project.tensor_names[0]: banks if project.num_banks > 1 else banks[0]}
    if tokens.timestep_offsets is not None:
        found[project.tensor_names[1]] = tokens.timestep_offsets.detach()
    return found


def _stated(config: AdapterConfig) -> dict[str, str]:
    place = config.placement
    stands = {"blocks": ",".join(place.blocks)} if isinstance(place, UNetPlacement) else {"layers": place.layers}
    return {"family": config.family, "base_model": config.base_model, **stands}


def _left_out(config: AdapterConfig) -> tuple[str, ...]:
    ema = ("The averaged (EMA) tokens are left out: their files hold one set.",) if config.has_ema else ()
    rest = (
        "What else the configuration says is left out, as the base model's fingerprint: --base of `convert` finds it."
    )
    return (*ema, rest)


def _readme(source: Source, project: PeerFormat, left_out: tuple[str, ...]) -> str:
    tokens, table = project.tensor_names
    has_table = source.config.timestep_bins > 0
    return _README.format(
        name=source.name,
        title=project.title,
        file=project.safetensors_name,
        tokens=tokens,
        tokens_file=project.tokens_name,
        table=_TABLE.format(name=table, file=project.table_name) if has_table else "",
        base_model=source.config.base_model,
        num_tokens=source.config.num_soft_tokens,
        place=source.config.placement.text,
        no_table="" if has_table else ", and no timestep table",
        family=source.config.family,
        left_out="\n".join(left_out),
    )


def _require_expressible(config: AdapterConfig, project: PeerFormat) -> None:
    lost = _lost(config, project)
    if lost:
        raise CompatibilityError(
            "The papers' code cannot do what this adapter does.",
            expected=f"what {project.title} trains: {', '.join(get_args(PeerFamily))}, with its places of the tokens",
            found="; ".join(lost),
            fix="use --format hub",
        )


def _lost(config: AdapterConfig, project: PeerFormat) -> list[str]:
    """Return what the papers' layout and code have no place for."""
    found, place = [], config.placement
    if config.family not in get_args(PeerFamily):
        found.append(f"the family: neither project has code for {config.family}")
    if config.timestep_bins not in (0, NUM_TIMESTEP_BINS):
        found.append(f"the timestep table: it has {config.timestep_bins} rows, theirs {NUM_TIMESTEP_BINS}")
    if project.name == "agsm" and config.timestep_bins == 0:
        found.append("that there is no timestep table: AGSM always adds one")
    if isinstance(place, UNetPlacement):
        if project.name == "agsm" and place.blocks != _AGSM_BLOCKS:
            found.append(f"the blocks: AGSM's are down and mid, these are {' and '.join(place.blocks)}")
    elif place.layers != "first":
        found.append(f"the layers: theirs are the first joint blocks, these are the {place.layers}")
    return found
