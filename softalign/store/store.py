"""Where records and their files live: local folders and any fsspec URI (``s3://``), published whole or not at all.

``{store}/{stage}/{stage_key}/`` holds the record of a stage, and beside it the stage's files with ``files.json`` (their
list with sha256), ``request.json`` (what was asked for) and ``usage.json`` (what it cost); no digest covers these two.
A local prefix appears by one rename; what it cost comes after it.
An object store has no rename: there the files lie one level deeper, under the first digits of ``files_digest``, so that
two writers of different content never mix, and the record, created last and only if there is none, makes them exist.
``{store}/encoded/`` holds single files that datasets share.
"""

from __future__ import annotations

import errno
import json
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from softalign.artifacts import FileEntry, Record, Stage, digest_of
from softalign.credentials import holds_secret
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.store.files import (
    RESTORE,
    create_file,
    fetch_verified,
    is_local,
    list_files,
    local_path_of,
    on_filesystem_of,
    private_cache,
    private_folder,
    read_bytes,
)
from softalign.store.holder import Held
from softalign.store.leases import require_held
from softalign.store.reaching import reaching
from softalign.store.shared import SharedFiles
from softalign.store.traffic import note_written
from softalign.store.uploading import check_arrived, upload_files

RecordT = TypeVar("RecordT", bound=Record)


DEFAULT_STORE = "softalign-store"
WORK_FOLDER = ".work"
"""Of a local store: what is unfinished lies there."""
"""The default store: a folder in the working folder."""
STORE_VARIABLE = "SOFTALIGN_STORE"
"""Environment variable that names another default."""
REQUEST_FILENAME = "request.json"
"""What a stage was asked for (see ``softalign.stages.requests``)."""


class Store(SharedFiles):
    """A root URI under which all stages publish.

    Args:
        uri: a local folder (made when first written to) or any fsspec URI.
        held: leases without which nothing is published.

    Raises:
        ConfigError: it is empty, or holds a password: records and the orchestrator show it to others.
    """

    def __init__(self, uri: str, held: tuple[Held, ...] = ()) -> None:
        if not uri.strip():
            raise ConfigError("The store has no name.", expected="a folder or an s3:// URI", found="nothing")
        if holds_secret(uri):
            raise ConfigError(
                "The store's address holds a password, which records and logs would show.",
                where=uri,
                fix="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
            )
        self.uri = str(local_path_of(uri).absolute()) if is_local(uri) else uri.rstrip("/")
        self.held = held
        self._listed: tuple[str, dict[str, FileEntry]] = ("", {})

    def require_held(self) -> None:
        """Look whether the leases of whoever works with this store still are its own: before what stays.

        Raises:
            LeaseLostError: another process has taken one.
            StorageUnavailableError: the store did not answer.
        """
        for held in self.held:
            require_held(self.uri, held)

    def prefix(self, stage: Stage, key: str) -> str:
        """Return the URI of a stage's output."""
        return f"{self.uri}/{stage}/{key}"

    def work_path(self, stage: Stage, key: str) -> Path:
        """Return the local folder for a stage's unfinished work; the same after a restart, so work can resume."""
        work = f"work/{digest_of(self.uri)[:16]}"
        with reaching(self.uri):
            try:
                root = private_folder(Path(self.uri) / WORK_FOLDER) if self.is_local else private_cache() / work
                path = root / stage / key
                path.mkdir(parents=True, exist_ok=True)
            except FileNotFoundError as error:  # what /proc and the like say
                raise ConfigError("The store cannot be made there.", found=str(error), where=self.uri) from error
        return path

    def request_path(self, stage: Stage, key: str) -> Path:
        """Return the local file that ``publish`` puts beside the record as ``request.json``, if it is there."""
        return self.work_path(stage, "requests") / f"{key}.json"

    def find(self, record_type: type[RecordT], key: str) -> RecordT | None:
        """Return the record published under a stage key, or None.

        Raises:
            IntegrityError: a record lies there but is damaged or answers another request.
            StorageUnavailableError: the store did not answer.
        """
        prefix = self.prefix(record_type.stage, key)
        try:
            data = read_bytes(f"{prefix}/{record_type.filename}")
        except MissingInputError:
            return None
        record = record_type.from_json(data, prefix)
        if record.stage_key != key:
            raise IntegrityError(
                "A record lies under another stage key than its own.",
                expected=key,
                found=record.stage_key,
                where=prefix,
                fix="remove this prefix and rerun the stage",
            )
        return record.model_copy(update={"uri": self._files_uri(record)})

    def publish(
        self, record: RecordT, folder: Path, beside: Record | None = None, known: Iterable[FileEntry] = ()
    ) -> RecordT:
        """Publish a finished local folder under the record's stage key and return the record with its place.

        Publishing the same content again changes nothing; of several writers the first wins. The local folder is
        consumed; its hidden files are not published.

        Args:
            record: of what is published.
            folder: its files.
            beside: a record published before: files that it has too are copied within a remote store, not sent again.
            known: entries of files that were made when these were written.

        Raises:
            IntegrityError: other content is already published there, or an upload arrived changed.
            LeaseLostError: another process works on this request by now.
            ConfigError: the store cannot be written to.
            StorageUnavailableError: the store did not answer.
        """
        hidden = [path for path in folder.rglob(".*") if path.is_file()]  # never finished
        for leftover in (folder / "files.json", folder / record.filename, folder / REQUEST_FILENAME, *hidden):
            leftover.unlink(missing_ok=True)
        entries = list_files(folder, known)
        files_json = [entry.model_dump() for entry in entries]
        final = record.model_copy(update={"files_digest": digest_of(files_json)})
        final = final.model_copy(update={"uri": self._files_uri(final)})
        if not self._is_published(final):
            (folder / "files.json").write_text(json.dumps(files_json, indent=1) + "\n", encoding="utf-8")
            if (request := self.request_path(record.stage, record.stage_key)).is_file():
                shutil.copyfile(request, folder / REQUEST_FILENAME)
            known = set(self.files(beside)) if beside is not None else set()
            there = {entry.path: f"{beside.uri}/{entry.path}" for entry in entries if beside and entry in known}
            if self.is_local:
                self._publish_local(final, folder)
            else:
                self._publish_remote(final, folder, entries, there)
            note_written(sum(entry.size_bytes for entry in entries if entry.path not in there))
        shutil.rmtree(folder, ignore_errors=True)
        return final

    def files(self, record: Record) -> tuple[FileEntry, ...]:
        """Return the file list of a published record, checked against the record.

        Raises:
            IntegrityError: ``files.json`` is missing or not the list the record was published with.
        """
        where = f"{record.uri}/files.json"
        try:
            listed = json.loads(read_bytes(where))
            found = f"digest {digest_of(listed)}"
        except (MissingInputError, ValueError, RecursionError) as error:
            listed, found = [], str(error).splitlines()[0]
        if found != f"digest {record.files_digest}":
            raise IntegrityError(
                "The file list is not the one that was published.",
                expected=f"digest {record.files_digest}",
                found=found,
                where=where,
                fix="remove this prefix and rerun the stage",
            )
        return tuple(FileEntry.model_validate(entry) for entry in listed)

    def fetch(self, record: Record, under: str = "") -> Path:
        """Return a local folder with a record's files (those whose path starts with ``under``), verified by sha256.

        A local store's files are verified in place; others are copied to the cache, once.

        Raises:
            IntegrityError: a file is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        root = self._local_root(record)
        for entry in self.files(record):
            if entry.path.startswith(under):
                fetch_verified(entry, f"{record.uri}/{entry.path}", root / entry.path)
        return root

    def fetch_file(self, record: Record, path: str, fix: str = RESTORE) -> Path:
        """Return a local path of one of a record's files, as ``fetch``.

        The list of files is read once for many files of one record: it is as long as the dataset.

        Args:
            record: whose file it is.
            path: as ``files.json`` has it.
            fix: what can be done where the file is damaged, for the error.

        Raises:
            IntegrityError: there is no such file, or it is missing, truncated or changed.
            StorageUnavailableError: the store did not answer.
        """
        where = f"{record.uri}/{path}"
        if self._listed[0] != record.digest:
            self._listed = (record.digest, {entry.path: entry for entry in self.files(record)})
        entry = self._listed[1].get(path)
        if entry is None:
            what, fix = "A file is not among the files of its record.", "remove this prefix and rerun the stage"
            raise IntegrityError(what, expected=path, found="no such entry in files.json", where=where, fix=fix)
        local = self._local_root(record) / path
        fetch_verified(entry, where, local, fix)
        return local

    def _local_root(self, record: Record) -> Path:
        return local_path_of(record.uri) if is_local(record.uri) else private_cache() / record.stage / record.digest

    def _files_uri(self, record: Record) -> str:
        prefix = self.prefix(record.stage, record.stage_key)
        return prefix if self.is_local else f"{prefix}/{record.files_digest[:16]}"

    def _is_published(self, final: Record) -> bool:
        """Return whether this very content is published.

        Raises:
            IntegrityError: other content is.
        """
        published = self.find(type(final), final.stage_key)
        if published is not None and published.digest != final.digest:
            raise IntegrityError(
                "Other content is already published for this request; nothing was overwritten.",
                expected=f"digest {published.digest}",
                found=f"digest {final.digest}",
                where=self.prefix(final.stage, final.stage_key),
                fix="if the published one is wrong, remove its prefix and rerun the stage",
            )
        return published is not None

    def _publish_local(self, final: Record, folder: Path) -> None:
        target = Path(self.prefix(final.stage, final.stage_key))
        with reaching(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            (folder / final.filename).write_bytes(final.to_json())
            complete = on_filesystem_of(target.parent, folder)
            try:
                complete.replace(target)
            except OSError as error:  # something is there: another writer's, or what a copy by hand left
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                if not self._is_published(final):
                    target.replace(complete.with_name(f".{target.name}.unfinished.{uuid.uuid4().hex[:8]}"))
                    complete.replace(target)

    def _publish_remote(
        self, final: Record, folder: Path, entries: tuple[FileEntry, ...], there: dict[str, str]
    ) -> None:
        try:
            upload_files(final.uri, folder, entries, there)
        except MissingInputError as error:
            raise MissingInputError(
                "The store does not exist.",
                found=error.found,
                where=self.uri,
                fix="create the bucket or correct --store; the finished work is kept and published by a rerun",
            ) from error
        check_arrived(final.uri, entries)
        prefix = self.prefix(final.stage, final.stage_key)
        if (folder / REQUEST_FILENAME).is_file():
            create_file(f"{prefix}/{REQUEST_FILENAME}", (folder / REQUEST_FILENAME).read_bytes())
        self.require_held()
        if not create_file(f"{prefix}/{final.filename}", final.to_json()):
            self._is_published(final)
