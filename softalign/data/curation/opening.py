"""A source's file as a stream of bytes, decompressed on the way, and telling damage in it from the store's failure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from softalign.data.curation.parts import SourceFile
from softalign.data.curation.tables import kind_of
from softalign.errors import DataError
from softalign.store.reaching import reaching

_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
COMPRESSED_SUFFIXES = (".gz", ".zst")
_START_BYTES = 16


def plain_name(name: str) -> str:
    """Return a file's name in lower case, without the suffix of a compression."""
    lower = name.lower()
    return next((lower.removesuffix(suffix) for suffix in COMPRESSED_SUFFIXES if lower.endswith(suffix)), lower)


@contextmanager
def opened(file: SourceFile, kind: str, *, is_seekable: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for reading; gzip and zstd are known by how the file starts, and decompressed.

    Args:
        file: what is opened.
        kind: what it should be, for the message: ``Parquet file``.
        is_seekable: the reader jumps about in it: what is compressed is decompressed to a temporary file first.

    Raises:
        DataError: what is read from it is damaged, as the block finds (errors of pyarrow, of decompression, of text).
        MissingInputError: it is not there.
        ConfigError: access was refused.
        StorageUnavailableError: the store did not answer.
    """
    import pyarrow as pa

    start = b""
    with reaching(file.uri), ExitStack() as stack:
        raw = stack.enter_context(file.filesystem.open(file.path, "rb"))
        start = raw.read(_START_BYTES)
        raw.seek(0)
        try:
            yield _decompressed(raw, start, stack, is_seekable=is_seekable)
        except (pa.ArrowException, EOFError, OSError, UnicodeError) as error:
            if isinstance(error, MemoryError) or _is_of_store(error):
                raise
            raise damaged(file.uri, kind, f"{kind_of(start)}; {error}") from error


def damaged(where: str, kind: str, found: str) -> DataError:
    """Return the error of a table that is damaged, or of another kind."""
    article = "an" if kind[0] in "AEIOU" else "a"
    return DataError(
        f"The captions table is not a sound {kind}.", expected=f"{article} {kind}", found=found[:500], where=where
    )


def _decompressed(raw: Any, start: bytes, stack: ExitStack, *, is_seekable: bool) -> IO[bytes]:
    import pyarrow as pa

    compression = next((name for magic, name in _COMPRESSIONS.items() if start.startswith(magic)), None)
    if compression is None:
        return raw  # type: ignore[no-any-return]
    stream = stack.enter_context(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression))
    if not is_seekable:
        return stream  # type: ignore[no-any-return]
    spilled = stack.enter_context(tempfile.TemporaryFile())
    shutil.copyfileobj(stream, spilled, 1 << 20)
    spilled.seek(0)
    return spilled


def _is_of_store(error: Exception) -> bool:
    """Whether an error comes from the filesystem: pyarrow's own, of damaged bytes, is a bare OSError without number."""
    return isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None)
