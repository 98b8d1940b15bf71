"""Which tokens an arm of an evaluation is drawn with, as a digest: what the arm's images depend on, and no more.

The untrained arm sees an adapter's step-0 tokens alone, so two trainings that start alike share its images and scores,
however long and by whatever objective they train.
"""

from __future__ import annotations

import hashlib
import json

from softalign.artifacts import BASE_ARMS, Adapter, Arm, digest_of
from softalign.errors import IntegrityError, MissingInputError
from softalign.store.adapter_files import CONFIG_FILENAME, INITIAL_FOLDER, WEIGHTS_FILENAME
from softalign.store.files import read_bytes
from softalign.store.store import Store


def tokens_digest(arm: Arm, adapter: Adapter | None, store: Store, champion: str = "") -> str:
    """Return the digest of an arm's tokens: empty without any, else the step-0 tokens' or the trained adapter's.

    Args:
        arm: of an evaluation.
        adapter: the trained one; None where it is not known, or not taken.
        store: where it lies.
        champion: ``NAME/VERSION#sha256``, whose sha256 is the digest of the champion's tokens.

    Raises:
        MissingInputError: the adapter has no step-0 tokens.
        IntegrityError: their files are not what was published.
    """
    if arm == "champion":
        return champion.partition("#")[2]
    if adapter is None or arm in BASE_ARMS:
        return ""
    return adapter.digest if arm == "adapter" else _initial_digest(adapter, store)


def _initial_digest(adapter: Adapter, store: Store) -> str:
    """Return a digest of the step-0 tokens' weights and of their place in the denoiser."""
    sha256_by_path = {entry.path: entry.sha256 for entry in store.files(adapter)}
    paths = [f"{INITIAL_FOLDER}/{name}" for name in (WEIGHTS_FILENAME, CONFIG_FILENAME)]
    missing = [path for path in paths if path not in sha256_by_path]
    if missing:
        raise MissingInputError(
            "The adapter has no step-0 tokens to compare with.",
            expected=" and ".join(paths),
            found=f"no {' and no '.join(missing)}",
            where=adapter.uri,
            fix="train it again with this version",
        )
    weights_sha256, config_sha256 = (sha256_by_path[path] for path in paths)
    return digest_of([weights_sha256, _placement(f"{adapter.uri}/{paths[1]}", config_sha256)])


def _placement(uri: str, sha256: str) -> object:
    data = read_bytes(uri)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise IntegrityError(
            "A published file is not what was published.",
            expected=f"sha256 {sha256}",
            found=f"sha256 {found}",
            where=uri,
            fix="remove this prefix and rerun the stage",
        )
    return json.loads(data)["placement"]
