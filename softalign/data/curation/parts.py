"""The files that a URI names: one, those of a folder, of a glob, or of a range such as ``{000..012}``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from softalign.config.curation import HttpConfig
from softalign.data.curation.names import is_url
from softalign.data.curation.urls import HTTP_DEFAULTS
from softalign.errors import ConfigError, MissingInputError
from softalign.store.files import is_local, open_filesystem, read_bytes
from softalign.store.reaching import reaching

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_GLOB = re.compile(r"[*?\[]")
_MAX_NAMES_SHOWN = 5


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source.

    Attributes:
        uri: how it is named in messages.
    """

    filesystem: AbstractFileSystem
    path: str
    uri: str

    @property
    def name(self) -> str:
        """Its name without folders, of a URL also without what follows a question mark."""
        return PurePosixPath(urlsplit(self.path).path if is_url(self.path) else self.path).name


def files_of(uri: str, is_wanted: Callable[[str], bool], http: HttpConfig = HTTP_DEFAULTS) -> tuple[SourceFile, ...]:
    """Return the files that a URI names, those of a folder or glob by name.

    Args:
        uri: a file's, whatever its name; a folder's, a glob, or with ranges (``{000..012}``) or choices (``{a,b}``).
        is_wanted: by a file's name; of a folder, files that begin with . or _ are never wanted.
        http: how files behind HTTP are fetched, of which each is named.

    Raises:
        MissingInputError: there is no such file, or none in the folder or of the glob.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    if is_url(uri):
        return _web_files(uri, http)
    require_no_chain(uri)
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        filesystem.invalidate_cache()  # what this process listed before may have changed
        if filesystem.isfile(path):
            return (SourceFile(filesystem, path, uri),)
    return tuple(file for one in _expanded(uri) for file in _files_of_one(one, is_wanted))


def read_file(uri: str, http: HttpConfig = HTTP_DEFAULTS) -> bytes:
    """Return the content of a source's file.

    Raises:
        MissingInputError: it is not there.
        DataError: it is larger than may be fetched.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    if not is_url(uri):
        require_no_chain(uri)
        return read_bytes(uri)
    (file,) = _web_files(uri, http)
    with reaching(uri), file.filesystem.open(file.path, "rb") as stream:
        data: bytes = stream.read()
    return data


def require_no_chain(uri: str) -> None:
    """Refuse an address that has another one fetched over HTTP, past the rules for that.

    Raises:
        ConfigError: it does.
    """
    if "::http" in uri.lower():
        raise ConfigError(
            "This address leads to another one behind HTTP.",
            expected="a path, an address of a store, or a plain URL",
            found=uri,
            fix="name the file itself by its URL, or copy it to a disk or an object store",
        )


def _web_files(uri: str, http: HttpConfig) -> tuple[SourceFile, ...]:
    from softalign.data.curation.web_files import WebFiles

    filesystem, urls = WebFiles(http), tuple(_expanded(uri))
    for url in urls:
        if "*" in url or urlsplit(url).path.endswith("/") or not urlsplit(url).path:
            raise ConfigError(
                "Behind HTTP there are no folders to look into.",
                expected="a file's URL, or a range such as shards/{000..012}.tar",
                found=url,
                fix="name each file, or copy them to a disk or an object store",
            )
    return tuple(SourceFile(filesystem, url, url) for url in urls)


def _expanded(uri: str) -> Iterator[str]:
    """Yield a URI for each number of its ranges, written with as many digits, and for each of its choices."""
    if match := _RANGE.search(uri):
        first, last = match.groups()
        digits = len(first) if first.startswith("0") else 1
        choices = [f"{number:0{digits}d}" for number in range(int(first), int(last) + 1)]
    elif match := _CHOICE.search(uri):
        choices = match[1].split(",")
    else:
        yield uri
        return
    for choice in choices:
        yield from _expanded(f"{uri[: match.start()]}{choice}{uri[match.end() :]}")


def _files_of_one(uri: str, is_wanted: Callable[[str], bool]) -> list[SourceFile]:
    filesystem, path = open_filesystem(uri)
    with reaching(uri):
        if filesystem.isfile(path):
            return [SourceFile(filesystem, path, uri)]
        if filesystem.isdir(path):
            there = sorted(map(str, filesystem.find(path)))
            found = [name for name in there if _is_visible(name.removeprefix(path)) and is_wanted(name)]
        elif _GLOB.search(uri):
            there = []
            found = sorted(str(name) for name in filesystem.glob(path) if filesystem.isfile(name))
        else:
            raise FileNotFoundError(uri)
    if not found:
        shown = ", ".join(PurePosixPath(name).name for name in there[:_MAX_NAMES_SHOWN])
        raise MissingInputError(
            "No file of this source is there.",
            expected="files of the kinds that this source reads",
            found=f"a folder with {shown}" + (", ..." * (len(there) > _MAX_NAMES_SHOWN)) if there else "none",
            where=uri,
            fix="name the files' folder, or the files with a glob such as part-*.parquet",
        )
    return [SourceFile(filesystem, name, _uri_of(filesystem, name, uri)) for name in found]


def _is_visible(path: str) -> bool:
    return not any(part.startswith((".", "_")) for part in PurePosixPath(path).parts)


def _uri_of(filesystem: AbstractFileSystem, path: str, uri: str) -> str:
    return path if is_local(uri) else str(filesystem.unstrip_protocol(path))
