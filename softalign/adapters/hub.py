"""An adapter from the Hugging Face hub: its two files, of one commit, in the hub's own cache."""

from __future__ import annotations

from pathlib import Path

from softalign.errors import MissingInputError, SoftAlignError, StorageUnavailableError
from softalign.store.adapter_files import CONFIG_FILENAME, WEIGHTS_FILENAME
from softalign.store.offline import hub_silence


def hub_adapter(repository: str, revision: str | None = None) -> Path:
    """Return a local folder with the adapter in a repository of the hub.

    A branch or tag is looked up once, so that both files are of one commit. Where the hub does not answer, the copy of
    an earlier time is used.

    Args:
        repository: OWNER/NAME.
        revision: a branch, tag or commit; unset: ``main``.

    Raises:
        MissingInputError: no such folder, repository, revision or adapter, or this account may not read it.
        StorageUnavailableError: the hub answered with an error of its own.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    silence, wanted = hub_silence(), [CONFIG_FILENAME, WEIGHTS_FILENAME]
    try:
        found = snapshot_download(repository, revision=revision, allow_patterns=wanted, local_files_only=bool(silence))
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise _explained(error, _named(repository, revision), silence) from error
    folder = Path(found)
    if not (folder / CONFIG_FILENAME).is_file() or not (folder / WEIGHTS_FILENAME).is_file():
        raise MissingInputError(
            "There is no adapter in this repository of the hub.",
            expected=f"{CONFIG_FILENAME} and {WEIGHTS_FILENAME}",
            where=_named(repository, revision),
        )
    return folder


def _named(repository: str, revision: str | None) -> str:
    return f"{repository} at {revision}" if revision else repository


def _explained(error: Exception, where: str, silence: str) -> SoftAlignError:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    found = silence or str(error).splitlines()[0]
    if isinstance(error, LocalEntryNotFoundError):
        return MissingInputError(
            "There is no such adapter: neither a folder, nor in the hub's cache, and the hub could not be asked.",
            expected="a folder, or a hub id (OWNER/NAME) that was loaded before",
            found=found,
            where=where,
            fix="check the path, or load it once with the hub in reach",
        )
    if isinstance(error, RevisionNotFoundError):
        return MissingInputError("The hub has no such revision of this repository.", found=found, where=where)
    if isinstance(error, (GatedRepoError, RepositoryNotFoundError)):
        return MissingInputError(
            "There is no such adapter folder, nor a repository of the hub that this account may read.",
            found=found,
            where=where,
            fix="check the name; a private or gated repository needs HF_TOKEN of an account with access",
        )
    return StorageUnavailableError("The hub answered with an error of its own.", found=found, where=where)
