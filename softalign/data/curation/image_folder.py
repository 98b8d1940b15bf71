"""Image folders: reading a file by the name a table gives it, and telling its failure from the folder's."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from softalign.config.curation import HttpConfig
from softalign.data.curation.fetch_errors import FetchError
from softalign.data.curation.names import is_url, other_spellings
from softalign.data.curation.rejections import UNLIMITED, ItemError, too_large
from softalign.data.curation.urls import HTTP_DEFAULTS
from softalign.errors import ConfigError, MissingInputError, SoftAlignError, StorageUnavailableError
from softalign.store.files import is_local, open_filesystem
from softalign.store.reaching import reaching

NUM_WITNESSES = 8
_BUSY_STATUS = {408, 425, 429, 502, 503, 504}
"""What servers answer when they cannot answer now, whatever they are asked for."""
_NOT_THERE = {
    errno.EISDIR: "a folder",
    errno.ENOTDIR: "below a file",
    errno.ELOOP: "links in a circle",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENXIO: "no regular file",
}


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """Where a source's images lie.

    Attributes:
        uri: a folder, or any fsspec URI.
        witnesses: some of the names the table lists: while one of them can be read, or is known to be missing, the
            store answers, and what cannot be read is one file.
        http: how images are fetched, where the folder is behind HTTP; its own host may be a private one.
    """

    uri: str
    witnesses: tuple[str, ...] = ()
    http: HttpConfig = HTTP_DEFAULTS

    def require(self) -> None:
        """Refuse a folder that is not there: its files would all be counted as missing. HTTP knows no folders.

        Raises:
            MissingInputError: it is not there, or a file is.
            ConfigError: it cannot be opened.
            StorageUnavailableError: the store does not answer.
        """
        if is_url(self.uri):
            return
        filesystem, root = open_filesystem(self.uri)
        with reaching(self.uri):
            found = "" if filesystem.isdir(root) else "a file" if filesystem.exists(root) else "nothing"
        if found:
            raise MissingInputError(
                "The image folder is not there.",
                expected="a folder",
                found=found,
                where=self.uri,
                fix="correct images_uri of this source",
            )

    def read(self, filename: str, max_bytes: int = UNLIMITED) -> bytes:
        """Return a file's content.

        A file that is refused or breaks off is tried once more, if the folder answers for another one. Where no file
        has the name, the one is read that has it with / for a backslash, or with its accents in
        Unicode's other form: exports of Windows and macOS name files so.

        Args:
            filename: one for which ``flaw_of_name`` finds nothing.
            max_bytes: of a larger file no more is read.

        Raises:
            ItemError: this file is missing, no file, refused, larger than that, or cannot be read to its end.
            ConfigError: the folder cannot be opened, or is refused as a whole.
            StorageUnavailableError: the store does not answer.
        """
        try:
            return self._read(filename, max_bytes)
        except (ConfigError, StorageUnavailableError) as error:
            if not self._answers_beside(filename, error):
                raise
        try:
            return self._read(filename, max_bytes)
        except (ConfigError, StorageUnavailableError) as error:
            code = _code(error.__cause__)
            is_refused = isinstance(error.__cause__, PermissionError) or code in {"HTTP 401", "HTTP 403"}
            raise ItemError("access_refused" if is_refused else "unreadable_file", code) from error

    def local_path(self, filename: str) -> str:
        """Return where a file is on this machine, if it has this spelling; empty where the folder is elsewhere."""
        return f"{_local_root(self.uri)}/{filename}" if is_local(self.uri) else ""

    def _read(self, filename: str, max_bytes: int) -> bytes:
        """Return a file's content.

        Raises:
            ItemError: there is no such file.
            ConfigError, StorageUnavailableError: it was refused or broke off; that may be the store's failure.
        """
        try:
            return self._fetch(filename, max_bytes)
        except SoftAlignError as error:
            detail = _why_not_there(error.__cause__)
            if detail is None:
                raise
            content = None if detail else self._of_other_spelling(filename, max_bytes)
            if content is not None:
                return content
            raise ItemError("missing_image", detail) from error

    def _fetch(self, filename: str, max_bytes: int = UNLIMITED) -> bytes:
        if is_url(self.uri):
            from softalign.data.curation.fetching import fetch

            url = f"{self.uri.rstrip('/')}/{quote(filename)}"
            with reaching(url):
                return fetch(url, self.http, max_bytes, trusted_uri=self.uri)
        # joined inside the filesystem: parsed as a part of a URI, a name with :// or :: would mean another place
        with reaching(f"{self.uri.rstrip('/')}/{filename}"):
            if is_local(self.uri):
                data = _read_local(self.local_path(filename), max_bytes)
            else:
                filesystem, root = open_filesystem(self.uri)
                data = _start_of(filesystem, f"{root.rstrip('/')}/{filename}", max_bytes + 1)
        if len(data) > max_bytes:
            raise too_large(max_bytes)
        return data

    def _answers_beside(self, filename: str, error: SoftAlignError) -> bool:
        if _is_of_all(error.__cause__):
            return False
        return any(self._is_answered(name) for name in self.witnesses if name != filename)

    def _is_answered(self, filename: str) -> bool:
        try:
            self._fetch(filename)
        except SoftAlignError as error:
            return _why_not_there(error.__cause__) is not None
        return True

    def _of_other_spelling(self, filename: str, max_bytes: int) -> bytes | None:
        for spelling in other_spellings(filename):
            try:
                return self._fetch(spelling, max_bytes)
            except SoftAlignError as error:
                if _why_not_there(error.__cause__) is None:
                    raise
        return None


def _is_of_all(cause: BaseException | None) -> bool:
    """Whether a failure is the store's, whatever was asked for; behind HTTP one file was tried several times by now."""
    status = getattr(cause, "status", None)
    if isinstance(cause, FetchError):
        return status == HTTPStatus.TOO_MANY_REQUESTS
    return isinstance(cause, TimeoutError) or status in _BUSY_STATUS


def _start_of(filesystem: Any, path: str, num_bytes: int) -> bytes:
    try:
        return bytes(filesystem.cat_file(path, start=0, end=num_bytes))
    except OSError as error:
        if error.errno != errno.EINVAL:  # what S3 answers for a part of an empty object
            raise
        return bytes(filesystem.cat_file(path))


def _local_root(uri: str) -> str:
    """Return the local folder that a URI names; absolute ones, which always name the same, are found out once."""
    return _absolute_root(uri) if uri.startswith("/") else open_filesystem(uri)[1].rstrip("/")


@lru_cache(maxsize=64)
def _absolute_root(uri: str) -> str:
    return open_filesystem(uri)[1].rstrip("/")


def _read_local(path: str, max_bytes: int) -> bytes:
    """Return a regular file's content: without fsspec, which takes as long as reading it."""
    _require_regular_file(path, max_bytes)
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _require_regular_file(path: str, max_bytes: int) -> None:
    """Refuse anything but a regular file before it is opened: a pipe would block, and a device never ends."""
    found = os.stat(path)
    mode = found.st_mode
    if stat.S_ISREG(mode) and found.st_size > max_bytes:
        raise too_large(max_bytes)
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
        raise FileNotFoundError(code, os.strerror(code), path)


def _why_not_there(cause: BaseException | None) -> str | None:
    """Return why a file is missing ('' where nothing more is known), or None where the error is another one."""
    number = cause.errno if isinstance(cause, OSError) else None
    if number in _NOT_THERE:
        return _NOT_THERE[number]
    if getattr(cause, "status", None) == 410:
        return "HTTP 410"
    return "" if isinstance(cause, FileNotFoundError) else None


def _code(cause: BaseException | None) -> str:
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return f"HTTP {status}"
    if isinstance(cause, FetchError):
        return cause.detail
    if isinstance(cause, ConnectionError) or type(cause).__module__.startswith("aiohttp"):
        return "broken connection"  # which class it is depends on the moment
    number = cause.errno if isinstance(cause, OSError) else None
    return errno.errorcode.get(number or 0) or type(cause).__name__
