"""Where recipes come from: the package, files, any address, a git repository, the store, or a mapping itself."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from softalign.config.loading import explain_data, explain_text, load_recipe, recipe_names
from softalign.config.recipe import Recipe
from softalign.errors import ConfigError, MissingInputError, StorageUnavailableError
from softalign.store.files import read_bytes
from softalign.store.store import Store

logger = logging.getLogger(__name__)

STORED_FOLDER = "recipes"
"""Of a store: ``recipes/NAME.yaml`` is the recipe NAME of whoever works with that store."""
GIT = "git+"
GIT_TIMEOUT_S = 120.0
_GIT_ADDRESS = re.compile(r"git\+(?P<url>(?:https?|ssh|file)://[^#\s]+)@(?P<ref>[\w./-]+)#(?P<path>[^#\s]+)")
_GIT_FORM = "git+https://HOST/REPOSITORY@BRANCH_TAG_OR_COMMIT#PATH.yaml"
_MAX_BYTES = 1 << 20


def open_recipe(recipe: str | Mapping[str, Any], overrides: Sequence[str], store: Store) -> Recipe:
    """Return a recipe, with ``section.field=value`` overrides applied.

    Args:
        recipe: the name of one that comes with the package or lies in the store (``STORE/recipes/NAME.yaml``), a path,
            an address (``s3://``, ``https://``), ``git+https://HOST/REPOSITORY@REF#PATH``, or the recipe itself.
        overrides: applied in order.
        store: where names are looked up that the package does not have.

    Raises:
        ConfigError: there is no such recipe, or it has problems; all of them are listed.
        StorageUnavailableError: the place of the recipe did not answer.
    """
    if not isinstance(recipe, str):
        return explain_data(deepcopy(dict(recipe)), "the parameter recipe", overrides).recipe
    if recipe.startswith(GIT):
        return explain_text(_from_git(recipe), recipe, overrides).recipe
    if "://" in recipe:
        return explain_text(_read(recipe), recipe, overrides).recipe
    if recipe not in recipe_names() and re.fullmatch(r"[\w-]+", recipe):
        stored = f"{store.uri}/{STORED_FOLDER}/{recipe}.yaml"
        try:
            text = _decoded(read_bytes(stored), stored)
        except MissingInputError:
            return load_recipe(recipe, overrides)  # which says what names there are
        return explain_text(text, stored, overrides).recipe
    return load_recipe(recipe, overrides)


def _read(uri: str) -> str:
    try:
        return _decoded(read_bytes(uri), uri)
    except MissingInputError as error:
        raise ConfigError("There is no such recipe file.", found=error.found, where=uri) from error


def _decoded(data: bytes, where: str) -> str:
    if len(data) > _MAX_BYTES:
        raise ConfigError("The recipe is too large.", expected=f"{_MAX_BYTES} bytes at most", where=where)
    try:
        return data.decode("utf-8")
    except ValueError as error:
        raise ConfigError("The recipe is not UTF-8 text.", found=str(error), where=where) from error


def _from_git(address: str) -> str:
    """Return a file of a repository, at the commit that its reference means now; the commit is logged."""
    parts = _GIT_ADDRESS.fullmatch(address)
    if parts is None or parts["ref"].startswith("-"):
        raise ConfigError("This is no recipe of a git repository.", expected=_GIT_FORM, found=address)
    with tempfile.TemporaryDirectory(prefix="softalign-recipe-") as folder:
        _git(folder, "init", "--quiet")
        _git(folder, "fetch", "--quiet", "--depth", "1", parts["url"], parts["ref"], where=address)
        commit = _git(folder, "rev-parse", "FETCH_HEAD").decode().strip()
        logger.info("The recipe %s is of commit %s", parts["path"], commit)
        return _decoded(_git(folder, "show", f"{commit}:{parts['path']}", where=address), address)


def _git(folder: str, *arguments: str, where: str = "") -> bytes:
    command = ["git", "-C", folder, "-c", "protocol.ext.allow=never", *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command,
            capture_output=True,
            check=False,
            timeout=GIT_TIMEOUT_S,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0"},
        )
    except FileNotFoundError as error:
        raise ConfigError("The program git is not there.", fix="install git, or give the recipe another way") from error
    except subprocess.TimeoutExpired as error:
        raise StorageUnavailableError("The git repository did not answer.", where=where) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ConfigError(
            "The recipe cannot be read from its git repository.",
            expected=_GIT_FORM,
            found=said[-1] if said else f"git ended with {done.returncode}",
            where=where,
            fix="check address, reference and path, and that this account may read it",
        )
    return done.stdout
