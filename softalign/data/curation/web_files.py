"""Tables and archives behind HTTP, by the rules that images behind URLs are fetched by.

A file is fetched whole into a temporary one, as long as it comes at a pace of a MiB each ``timeout_s``. HTTP knows no
folders, so that each file must be named.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from fsspec import AbstractFileSystem

from softalign.config.curation import HttpConfig
from softalign.data.curation.fetch_errors import FetchError
from softalign.data.curation.fetching import PRIVATE_ADDRESS, fetch_into, headers_of
from softalign.data.curation.rejections import ItemError
from softalign.errors import ConfigError, DataError


class WebFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """What lies behind URLs, read only; the file that was opened last is kept for the next reader.

    Args:
        http: the limits.
    """

    protocol = ("http", "https")
    cachable = False

    def __init__(self, http: HttpConfig) -> None:
        super().__init__()
        self._http = http
        self._folder = Path(tempfile.mkdtemp(prefix="softalign-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._last: tuple[str, Path] | None = None

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Return a file's size and last change, as far as its server says them.

        Raises:
            ConfigError: its address is a private one.
            FetchError: it cannot be fetched.
        """
        try:
            found = headers_of(path, self._http)
        except FetchError as error:
            raise _explained(error, path) from error
        size = found.get("content-length", "")
        changed = {"ETag": found.get("etag", ""), "LastModified": found.get("last-modified", "")}
        return {"name": path, "type": "file", "size": int(size) if size.isdecimal() else None, **changed}

    def open(self, path: str, mode: str = "rb", **_: Any) -> IO[bytes]:
        """Open a file, which is fetched first.

        Raises:
            ConfigError: its address is a private one.
            DataError: it is too large.
            FetchError: it cannot be fetched.
        """
        if self._last is None or self._last[0] != path:
            before, self._last = self._last, (path, self._fetched(path))
            if before is not None:
                with suppress(OSError):  # Windows keeps what somebody reads
                    before[1].unlink()
        opened: IO[bytes] = self._last[1].open(mode)
        return opened

    def _fetched(self, path: str) -> Path:
        """Return a file that goes with this object at the latest."""
        fetched = self._folder / uuid.uuid4().hex
        try:
            with fetched.open("wb") as target:
                fetch_into(target, path, self._http, self._http.max_table_bytes)
        except FetchError as error:
            raise _explained(error, path) from error
        except ItemError as error:
            raise DataError(
                "The file behind this URL is too large.",
                expected=f"at most {self._http.max_table_bytes:,} bytes",
                found="more",
                where=path,
                fix="raise http.max_table_bytes of this source, split the file, or copy it to a disk or object store",
            ) from error
        return fetched


def _explained(error: FetchError, url: str) -> Exception:
    """Return the error to raise for one of fetching, which most often speaks for itself."""
    if error.detail != PRIVATE_ADDRESS:
        return error
    return ConfigError(
        "This address is one of this machine or of a private network.",
        expected="a public address, also after redirects",
        found=error.detail,
        where=url,
        fix="set http.allow_private_addresses of this source, if it is meant",
    )
