"""WebDataset tars as sources: read from start to end, one sample in memory at a time."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Self

from softalign.config.curation import HttpConfig, WebDatasetSource
from softalign.data.curation.caption_files import IMAGE_SUFFIXES, TEXT_SUFFIXES, captions_in
from softalign.data.curation.names import shown
from softalign.data.curation.opening import opened, plain_name
from softalign.data.curation.parts import SourceFile, files_of
from softalign.data.curation.rejections import Flaw, too_large
from softalign.data.curation.samples import HeldImage, ListedSample
from softalign.data.curation.urls import HTTP_DEFAULTS
from softalign.errors import DataError

MAX_MEMBER_BYTES = 256 * 2**20
"""Larger members are not read: no picture has so many bytes, and a sample is held in memory."""


@dataclass(slots=True)
class _Group:
    """The members of one name, as they come.

    Attributes:
        key: the name without its extensions, with its folder.
        image: the first image's whole name.
    """

    key: str
    image: str = ""
    data: bytes = b""
    texts: dict[str, bytes] = field(default_factory=dict)
    flaw: Flaw | None = None


@dataclass(frozen=True, slots=True)
class WebDatasetReader:
    """Tars in their order; a damaged one costs what comes after the damage, and is named."""

    source: WebDatasetSource
    files: tuple[SourceFile, ...]

    def check(self) -> None:
        """Check that one of the files is a tar, by its beginning; see ``sources.SourceReader``."""
        flaws: list[Exception] = []
        for file in self.files:
            try:
                with opened(file, "tar file") as stream, _tar(stream):
                    return
            except (tarfile.TarError, DataError) as error:
                flaws.append(error)
        what = "This file is no tar." if len(flaws) == 1 else f"None of these {len(flaws)} files is a tar."
        raise DataError(what, expected="a tar file", found=str(flaws[0]), where=self.files[0].uri) from flaws[0]

    def samples(self, name: str, on_number: Callable[[int], None]) -> Iterator[ListedSample]:
        """Yield the samples in the tars' order; their number is not known before; see ``sources.SourceReader``."""
        self.check()
        return (sample for file in self.files for sample in self._of_tar(name, file))

    def _of_tar(self, name: str, file: SourceFile) -> Iterator[ListedSample]:
        try:
            with opened(file, "tar file") as stream, _tar(stream) as tar:
                for group in _groups(tar):
                    yield self._sample(name, file, group)
        except (tarfile.TarError, DataError):
            flaw = Flaw("unreadable_file", "a damaged tar: what follows in it is lost")
            yield ListedSample(name, shown(file.name), HeldImage(b""), (), flaw)

    def _sample(self, name: str, file: SourceFile, group: _Group) -> ListedSample:
        flaw = group.flaw or (None if group.image else Flaw("missing_image", "no member is an image"))
        called = shown(f"{file.name}/{group.image or group.key}")
        captions = () if flaw else captions_in(group.texts, self.source.caption_field)
        return ListedSample(name, called, HeldImage(group.data), captions, flaw)


def is_tar(name: str) -> bool:
    """Return whether a file is a tar, by its name."""
    return plain_name(name).endswith((".tar", ".tgz"))


def webdataset_files(uri: str, http: HttpConfig = HTTP_DEFAULTS) -> tuple[SourceFile, ...]:
    """Return the tars that a URI names; see ``parts.files_of``."""
    return files_of(uri, is_tar, http)


class _NoEndMarkError(tarfile.ReadError):
    """The file ends between two members, without the zeros that end a tar: it may have had more."""


class _Header(tarfile.TarInfo):
    """A member's header; a damaged one is an error wherever it comes.

    After the first ``tarfile`` takes it for the archive's end, and so the end of a file that has no end mark.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Return the header of a block; see ``tarfile``."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
            raise _NoEndMarkError("no end mark") from error
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _tar(stream: IO[bytes]) -> tarfile.TarFile:
    return tarfile.open(fileobj=stream, mode="r|", errors="surrogateescape", tarinfo=_Header)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo | None]:
    """Yield the members; of a file that ends between two of them None, then its error."""
    try:
        yield from tar
    except _NoEndMarkError:
        yield None
        raise


def _groups(tar: tarfile.TarFile) -> Iterator[_Group]:
    """Yield the members of one name together; they follow each other, as the layout asks for."""
    group: _Group | None = None
    for member in _members(tar):
        if member is None:
            if group is not None:
                yield group
            group = None
            continue
        path = PurePosixPath(member.name)
        stem, _, extensions = path.name.partition(".")
        if not member.isfile() or not stem:
            continue
        key = str(path.with_name(stem))
        if group is not None and group.key != key:
            yield group
            group = None
        group = group or _Group(key)
        _add_member(group, tar, member, f".{extensions.lower()}")
    if group is not None:
        yield group


def _add_member(group: _Group, tar: tarfile.TarFile, member: tarfile.TarInfo, extension: str) -> None:
    is_image = extension in IMAGE_SUFFIXES and not group.image
    if not is_image and extension not in TEXT_SUFFIXES:
        return
    if is_image:
        group.image = member.name
    if member.size > MAX_MEMBER_BYTES:
        group.flaw = too_large(MAX_MEMBER_BYTES).flaw
        return
    stream = tar.extractfile(member)
    data = stream.read() if stream is not None else b""
    if is_image:
        group.data = data
    else:
        group.texts[extension] = data
