"""Checkpoints beyond this machine: copied in the background to any fsspec URI, found again by a fresh machine.

``{uri}/step-00000050/`` holds a checkpoint's files, ``checkpoint.json`` last: without it the checkpoint does not exist,
so an upload that is cut off leaves the earlier ones as they are. ``{uri}/rows/00000041-00000050.jsonl`` holds the rows
of ``metrics.jsonl`` from step 41 to step 50, so that no row is sent twice however long the run; ``{uri}/samples/`` the
sample images. Rows and images come before the checkpoint of their step, and are fetched before it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from softalign.errors import IntegrityError, MissingInputError, SoftAlignError
from softalign.store.adapter_files import CONFIG_FILENAME
from softalign.store.files import is_local, open_filesystem, replacing, write_atomically
from softalign.store.reaching import reaching
from softalign.store.traffic import note_read, note_written
from softalign.training.checkpoints import (
    META_FILENAME,
    STATE_FILENAME,
    checkpoint_step,
    list_checkpoints,
    read_checkpoint,
    refuse_adapter,
)
from softalign.training.metrics import offset_after
from softalign.training.run_files import SAMPLES_FOLDER, RunFiles

logger = logging.getLogger(__name__)


FINISH_TIMEOUT_S = 20.0
"""How long a run that is stopped waits for its uploads, and SUBMIT_TIMEOUT_S before it: SIGTERM leaves it 30 s."""
SUBMIT_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class _Rows:
    """A file of the rows after step ``after`` up to step ``until``."""

    after: int
    until: int
    size_bytes: int

    @property
    def path(self) -> str:
        return f"rows/{self.after + 1:08d}-{self.until:08d}.jsonl"

    @classmethod
    def of(cls, name: str, size_bytes: int) -> _Rows:
        first, _, last = name.removesuffix(".jsonl").partition("-")
        return cls(int(first) - 1, int(last), size_bytes)


class CheckpointUploads:
    """The copies of one run's checkpoints under a URI.

    Args:
        uri: of this run alone; any fsspec URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._filesystem, self._root = open_filesystem(self.uri)
        self._thread: threading.Thread | None = None
        self._rows_until, self._rows_offset = -1, 0

    def download(self, files: RunFiles) -> None:
        """Fetch the checkpoints that are newer than the newest here, and the rows and sample images up to them.

        A damaged one is passed over with a warning. Nothing is fetched that the rows do not reach.

        Raises:
            DataError: an adapter lies here.
            CompatibilityError: a checkpoint is of another format version.
            ConfigError: the place cannot be read with these credentials.
            StorageUnavailableError: the place did not answer.
        """
        self.refuse_adapter()
        chain = _chain(self._row_files())
        reach = chain[-1].until if chain else 0  # before the first step there are none
        folder = files.checkpoints_path
        newest = max(map(checkpoint_step, list_checkpoints(folder)), default=-1)
        complete = [name for name in self._complete() if checkpoint_step(Path(name)) <= reach]
        if not complete or checkpoint_step(Path(complete[-1])) <= newest:
            return
        self._fetch_rows(chain, files.metrics_path)
        for name in self._list(SAMPLES_FOLDER):
            if not (files.samples_path / name).exists():
                write_atomically(files.samples_path / name, self._read(f"{SAMPLES_FOLDER}/{name}"))
        fetched = [name for name in complete if not (folder / name).exists() and self._fetch(name, folder / name)]
        if fetched:
            logger.info("fetched %d checkpoint(s) from %s", len(fetched), self.uri)

    def refuse_adapter(self) -> None:
        """Refuse a place that holds an exported adapter.

        Raises:
            DataError: it does.
        """
        refuse_adapter(self.uri, CONFIG_FILENAME in self._list(""))

    def begin(self, step: int, metrics_path: Path) -> None:
        """Go on from a step (-1: from the start): what was sent after it belongs to an attempt whose end is lost."""
        found = self._row_files()
        chain = [rows for rows in _chain(found) if rows.until <= step]
        until = chain[-1].until if chain else -1
        offset = offset_after(metrics_path, until)
        if sum(rows.size_bytes for rows in chain) != offset:  # one was cut off: send all of them again
            chain, until, offset = [], -1, 0
        for rows in found:
            if rows not in chain:
                self._remove(rows.path)
        for name in self._complete():
            if checkpoint_step(Path(name)) > step:
                self._remove_checkpoint(name)
        self._rows_until, self._rows_offset = until, offset

    def submit(self, step: int, files: RunFiles) -> None:
        """Send what is here at a step and not there, in the background, when the one before is through.

        What cannot be sent is reported, and sent with the next one: training goes on.
        """
        self.wait(SUBMIT_TIMEOUT_S)
        if self._thread is not None:
            logger.warning("an upload is still under way: this checkpoint is uploaded with the next one")
            return
        self._start(step, files)

    def finish(self, step: int, files: RunFiles) -> None:
        """Send what is here at the last step of an attempt and not there, within FINISH_TIMEOUT_S in all."""
        deadline = time.monotonic() + FINISH_TIMEOUT_S
        self.wait(FINISH_TIMEOUT_S)
        if self._thread is None:
            self._start(step, files)
            self.wait(max(0.0, deadline - time.monotonic()))
        if self._thread is not None:
            logger.warning("step %d was not uploaded within %g s: it is only here", step, FINISH_TIMEOUT_S)

    def remove(self) -> None:
        """Remove all copies: the run is finished.

        Raises:
            ConfigError: the place cannot be changed with these credentials.
            StorageUnavailableError: the place did not answer.
        """
        self.wait(FINISH_TIMEOUT_S)
        with reaching(self.uri):
            if self._filesystem.exists(self._root):
                self._filesystem.rm(self._root, recursive=True)

    def wait(self, timeout_s: float) -> None:
        """Wait for the upload that is under way."""
        if self._thread is not None:
            self._thread.join(timeout_s)
            if not self._thread.is_alive():
                self._thread = None

    def _start(self, step: int, files: RunFiles) -> None:
        # read now: the folder changes meanwhile
        checkpoints = {path.name: _files_of(path) for path in list_checkpoints(files.checkpoints_path)}
        with files.metrics_path.open("rb") as file:
            file.seek(self._rows_offset)
            data = file.read()
        rows = _Rows(self._rows_until, step, len(data))
        sheets = sorted(files.samples_path.glob("step-*.png"))
        self._thread = threading.Thread(target=self._send, args=(checkpoints, rows, data, sheets), daemon=True)
        self._thread.start()

    def _send(self, files: dict[str, dict[str, bytes]], rows: _Rows, data: bytes, sheets: list[Path]) -> None:
        try:
            if data and rows.until > rows.after:
                self._write(rows.path, data)
                self._rows_until, self._rows_offset = rows.until, self._rows_offset + len(data)
            sent = self._list(SAMPLES_FOLDER)
            for path in sheets:
                if path.name not in sent:
                    self._write(f"{SAMPLES_FOLDER}/{path.name}", path.read_bytes())
            there = self._complete()
            for name in sorted(files.keys() - there):
                for file, content in files[name].items():
                    self._write(f"{name}/{file}", content)
            for name in there:
                if name not in files:
                    self._remove_checkpoint(name)
        except (SoftAlignError, OSError) as error:
            logger.warning("the checkpoint was not uploaded, the next one will be: %s", error)

    def _complete(self) -> list[str]:
        """Return the names of the checkpoints that exist, oldest first."""
        names = sorted(name for name in self._list("") if name.startswith("step-"))
        with reaching(self.uri):
            return [name for name in names if self._filesystem.exists(f"{self._root}/{name}/{META_FILENAME}")]

    def _row_files(self) -> list[_Rows]:
        return [_Rows.of(name, size) for name, size in self._list("rows").items() if name.endswith(".jsonl")]

    def _list(self, under: str) -> dict[str, int]:
        """Return the names in a folder with their sizes in bytes."""
        place = f"{self._root}/{under}".rstrip("/")
        with reaching(self.uri):
            self._filesystem.invalidate_cache()
            found = self._filesystem.ls(place, detail=True) if self._filesystem.isdir(place) else []
        return {str(entry["name"]).rstrip("/").rpartition("/")[2]: int(entry["size"] or 0) for entry in found}

    def _fetch_rows(self, chain: list[_Rows], metrics_path: Path) -> None:
        if not chain:
            return
        paths = [f"{self._root}/{rows.path}" for rows in chain]
        with reaching(f"{self.uri}/rows"):
            contents = self._filesystem.cat(paths)
        note_read(sum(map(len, contents.values())))
        write_atomically(metrics_path, b"".join(bytes(contents[key]) for key in sorted(contents)))

    def _fetch(self, name: str, target: Path) -> bool:
        try:
            with replacing(target) as made:
                made.mkdir()
                for file in (STATE_FILENAME, META_FILENAME):
                    (made / file).write_bytes(self._read(f"{name}/{file}"))
                read_checkpoint(made)
        except IntegrityError as error:
            logger.warning("checkpoint %s/%s is damaged and passed over: %s", self.uri, name, error.what)
            return False
        return True

    def _read(self, relative: str) -> bytes:
        with reaching(f"{self.uri}/{relative}"):
            data = bytes(self._filesystem.cat_file(f"{self._root}/{relative}"))
        note_read(len(data))
        return data

    def _write(self, relative: str, data: bytes) -> None:
        path = f"{self._root}/{relative}"
        with reaching(f"{self.uri}/{relative}"):
            if is_local(self.uri):
                self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._filesystem.pipe_file(path, data)
            self._filesystem.invalidate_cache()
            size = self._filesystem.size(path)
        note_written(len(data))
        if size != len(data):
            raise IntegrityError(
                "An upload arrived with another size.",
                expected=f"{len(data)} bytes",
                found=f"{size} bytes",
                where=f"{self.uri}/{relative}",
            )

    def _remove_checkpoint(self, name: str) -> None:
        self._remove(f"{name}/{META_FILENAME}")
        self._remove(f"{name}/{STATE_FILENAME}")

    def _remove(self, relative: str) -> None:
        try:
            with reaching(f"{self.uri}/{relative}"):
                self._filesystem.rm_file(f"{self._root}/{relative}")
        except MissingInputError:  # what should be gone is
            pass


def _files_of(path: Path) -> dict[str, bytes]:
    """Return a checkpoint's files, the meta file last: it makes the checkpoint exist. A damaged one's count as none."""
    try:
        return {name: (path / name).read_bytes() for name in (STATE_FILENAME, META_FILENAME)}
    except OSError:
        return {}


def _chain(found: list[_Rows]) -> list[_Rows]:
    """Return the files that follow one another without a gap from the first row on."""
    by_start = {rows.after: rows for rows in sorted(found, key=lambda rows: rows.until)}
    chain: list[_Rows] = []
    reach = -1
    while reach in by_start and by_start[reach].until > reach:
        chain.append(by_start[reach])
        reach = chain[-1].until
    return chain
