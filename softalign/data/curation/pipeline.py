"""The curate stage: sources -> filters -> shards, one stream, resumable after any kill.

After each shard a journal entry is written with the position in the stream and the shard's checksums. A restart keeps
the shards whose checksums still hold, refills the duplicate filter from their indexes, and goes on at the position; so
it ends with the bytes of an undisturbed run. Beside an earlier version (``reuse``) only what it does not know is read.
"""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

from softalign.artifacts import DatasetManifest, FileEntry, ReasonCount
from softalign.config.curation import CurationConfig
from softalign.config.runtime import Runtime
from softalign.data.curation.changes import list_samples_of
from softalign.data.curation.dedup import DuplicateFilter
from softalign.data.curation.filters import filter_captions, image_rejection
from softalign.data.curation.images import inspect_image
from softalign.data.curation.journal import JournalEntry, Progress
from softalign.data.curation.rejections import Failures, ItemError, Rejection, nothing_left
from softalign.data.curation.reuse import (
    Beside,
    Draft,
    EarlierVersion,
    ReadSample,
    ToConfirm,
    known_sample,
    open_earlier,
    read_beside,
)
from softalign.data.curation.samples import ListedSample, Sample
from softalign.data.curation.shards import read_index, read_rejections, shard_name, write_rejections
from softalign.engines.opening import open_engine
from softalign.engines.work import Engine, Work
from softalign.errors import IntegrityError
from softalign.processes.progress import Figure
from softalign.processes.reporter import Reporter
from softalign.store.files import sha256_of_file, verify_file, write_atomically
from softalign.store.store import Store

NUM_READERS = 4
"""Images read and decoded ahead, in threads: enough to hide a store's latency, little memory."""
KEY_CHARS = 32
HERE = Runtime()
"""The stage's own process does the work."""


def curate(
    config: CurationConfig,
    store: Store,
    key: str,
    runtime: Runtime = HERE,
    parent_key: str = "",
    beside: Beside | None = None,
) -> DatasetManifest:
    """Curate the configured sources and publish the dataset.

    The result is the same whether or not earlier versions are there to go by.

    Args:
        config: sources, filters and shard size.
        store: where the dataset is published.
        key: the stage key of the request.
        runtime: which engine reads the images, and how many may fail.
        parent_key: the stage key of the dataset without the last of ``config.caption_changes``; empty: there is none.
        beside: the version to go by, if there is one.

    Raises:
        MissingInputError: a captions table is not there.
        DataError: a table or a change cannot be used, or no sample passed the filters (with the count of every reason).
    """
    earlier = open_earlier(beside, store)
    run = _CurateRun(config, runtime, store.work_path("curate", key), earlier)
    run.restore()
    with warnings.catch_warnings(), open_engine(runtime) as engine:
        warnings.filterwarnings("ignore", module="PIL")  # of files that are kept, or rejected by name
        run.write_shards(engine)
    manifest = run.finish(key, parent_key)
    published = store.publish(manifest, run.output_path, beside=earlier.manifest if earlier is not None else None)
    shutil.rmtree(run.work_path, ignore_errors=True)
    return published


def sample_reader(config: CurationConfig) -> Callable[[ListedSample | ToConfirm], ReadSample]:
    """Return the function that reads a listed sample, or confirms one."""
    return lambda item: confirm_sample(item, config) if isinstance(item, ToConfirm) else read_sample(item, config)


def confirm_sample(item: ToConfirm, config: CurationConfig) -> ReadSample:
    """Read a sample's image; if its bytes are those of the earlier version, what that found out of them is taken over.

    Raises:
        ConfigError, StorageUnavailableError, MemoryError: as ``read_sample``.
    """
    listed, verdict = item.listed, filter_captions(item.listed, config.filters)
    if verdict.captions:
        with suppress(ItemError):  # which reading it as any other says
            data = listed.images.read(listed.filename)
            if hashlib.sha256(data).hexdigest() == item.placed.row.image_digest:
                sample = known_sample(listed, item.placed, verdict.captions, data)
                return ReadSample(sample, verdict.rejections, item.placed)
    return read_sample(listed, config)


def read_sample(listed: ListedSample, config: CurationConfig) -> ReadSample:
    """Check a listed sample's captions, then read and check its image; captions are judged first as they cost nothing.

    The one place where an item's failure (``ItemError``) becomes a rejection; every other error is not the item's.

    Raises:
        ConfigError: the image folder cannot be opened, or is refused as a whole.
        StorageUnavailableError: the store did not answer.
        MemoryError: there was none left to decode with.
    """
    if listed.flaw is not None:
        return ReadSample(None, (Rejection(listed.source, listed.filename, listed.flaw.reason, listed.flaw.detail),))
    verdict = filter_captions(listed, config.filters)
    if not verdict.captions:
        return ReadSample(None, verdict.rejections)
    try:
        sample = _open_sample(listed, verdict.captions)
    except ItemError as error:
        refused = Rejection(listed.source, listed.filename, error.flaw.reason, error.flaw.detail)
        return ReadSample(None, (*verdict.rejections, refused))
    filtered = image_rejection(sample, config.filters)
    return ReadSample(None if filtered else sample, (*verdict.rejections, *((filtered,) if filtered else ())))


def _open_sample(listed: ListedSample, captions: tuple[str, ...]) -> Sample:
    data = listed.images.read(listed.filename)
    facts = inspect_image(data)
    return Sample(
        source=listed.source,
        filename=listed.filename,
        captions=captions,
        image=data,
        extension=facts.extension,
        image_digest=hashlib.sha256(data).hexdigest(),
        perceptual_hash=facts.perceptual_hash,
        width_px=facts.width_px,
        height_px=facts.height_px,
    )


class _CurateRun:
    """The state of one curation: the work folder, the duplicate filter and the counts."""

    def __init__(
        self, config: CurationConfig, runtime: Runtime, work_path: Path, earlier: EarlierVersion | None = None
    ) -> None:
        self.config, self.earlier = config, earlier
        self.failures = Failures(runtime.max_failed_share)
        self.work_path = work_path
        self.output_path, self.journal_path = work_path / "output", work_path / "journal"
        for folder in (self.output_path, self.journal_path):
            folder.mkdir(parents=True, exist_ok=True)
        self.duplicates = DuplicateFilter(config.filters)
        self.progress, self.num_kept = Progress(), 0

    def restore(self) -> None:
        """Take over the shards a former attempt finished; everything after the first damaged one is redone."""
        while (journal := self._journal(self.progress.num_shards)).is_file():
            entry = JournalEntry.model_validate_json(journal.read_bytes())
            try:
                for file in entry.files:
                    verify_file(self.work_path / file.path, file, where=str(self.work_path / file.path))
            except IntegrityError:
                break
            rows = read_index(self.output_path / f"{shard_name(self.progress.num_shards)}.parquet")
            for row in rows:
                self._remember(row.image_digest, int(row.perceptual_hash, 16))
            self.failures.count(read_rejections(self._rejected(self.progress.num_shards)))
            self.progress.add_shard(rows, entry.num_seen)
        self._drop_unfinished()

    def write_shards(self, engine: Engine) -> None:
        """Run the stream from where the finished shards end; an engine reads the images, this process writes."""
        first, self.num_kept = self.progress.num_seen, self.progress.num_samples
        with Reporter("curate", "images", None, num_reused=first) as images:
            rest = islice(self._listed(images), first, None)
            self._write(images.over(self._read(rest, engine), self._watched_figures))

    def _listed(self, images: Reporter) -> Iterator[ListedSample]:
        def on_total(total: int) -> None:
            self.failures.expect(total)
            images.expect(total)

        return list_samples_of(self.config, self.work_path / "sources", on_total)

    def _read(self, listed: Iterator[ListedSample], engine: Engine) -> Iterator[ReadSample]:
        work = Work(sample_reader, (self.config,), num_threads=NUM_READERS)
        if self.earlier is None:
            return engine.map(work, listed)
        read_all, read_one = partial(engine.map, work), sample_reader(self.config)
        return read_beside(tuple(listed), self.earlier, self.config, read_all, read_one)

    def _write(self, samples: Iterable[ReadSample]) -> None:
        draft: Draft | None = None
        rejections: list[Rejection] = []
        num_seen = self.progress.num_seen
        for read in samples:
            num_seen += 1
            rejections.extend(read.rejections)
            self.failures.count(read.rejections)
            duplicate = self.duplicates.check(read.sample) if read.sample is not None else None
            rejections.extend(() if duplicate is None else (duplicate,))
            if read.sample is None or duplicate is not None:
                if self.earlier is not None and read.placed is not None:
                    self.earlier.lost()
                continue
            draft = draft if draft is not None else self._new_draft()
            key = self._remember(read.sample.image_digest, read.sample.perceptual_hash)
            draft.add(read.sample, read.placed, key)
            self.num_kept += 1
            if len(draft) == self.config.samples_per_shard:
                self._finish_shard(draft, rejections, num_seen)
                draft, rejections = None, []
        if draft is not None:
            self._finish_shard(draft, rejections, num_seen)
            rejections = []
        self.progress.num_seen = num_seen
        write_rejections(self._rejected(self.progress.num_shards), rejections)

    def _watched_figures(self) -> tuple[Figure, ...]:
        return (Figure(name="kept", value=self.num_kept),)

    def finish(self, key: str, parent_key: str) -> DatasetManifest:
        """Write the list of rejections and return the manifest.

        Raises:
            DataError: no sample is left.
        """
        parts = [self._rejected(index) for index in range(self.progress.num_shards + 1)]
        rejections = [rejection for part in parts if part.is_file() for rejection in read_rejections(part)]
        counts = Counter(rejection.reason for rejection in rejections)
        if not self.progress.num_samples:
            raise nothing_left(rejections, self.progress.num_seen, self.config)
        write_rejections(self.output_path / "rejected.parquet", rejections)
        return DatasetManifest(
            stage_key=key,
            name=self.config.name,
            num_samples=self.progress.num_samples,
            num_captions=self.progress.num_captions,
            num_val_samples=self.progress.num_val_samples,
            num_shards=self.progress.num_shards,
            total_bytes=sum(path.stat().st_size for path in self.output_path.glob("shard-*.tar")),
            num_seen=self.progress.num_seen,
            rejected=tuple(ReasonCount(reason=reason, count=count) for reason, count in sorted(counts.items())),
            parent_key=parent_key,
        )

    def _new_draft(self) -> Draft:
        return Draft(self.progress.num_shards, self.output_path, self.config.val_share, self.earlier)

    def _finish_shard(self, draft: Draft, rejections: list[Rejection], num_seen: int) -> None:
        index = self.progress.num_shards
        rows = draft.close()
        write_rejections(self._rejected(index), rejections)
        entry = JournalEntry(
            num_seen=num_seen,
            files=tuple(
                FileEntry(
                    path=path.relative_to(self.work_path).as_posix(),
                    size_bytes=path.stat().st_size,
                    sha256=sha256_of_file(path),
                )
                for path in (*draft.paths, self._rejected(index))
            ),
        )
        write_atomically(self._journal(index), entry.model_dump_json().encode())
        self.progress.add_shard(rows, num_seen)

    def _remember(self, image_digest: str, perceptual_hash: int) -> str:
        """Note an accepted image and return its key: from its content, numbered where exact duplicates are kept."""
        self.duplicates.accept(image_digest, perceptual_hash)
        if self.earlier is not None:
            self.earlier.accepted(image_digest)
        self.progress.occurrences[image_digest] += 1
        number = self.progress.occurrences[image_digest]
        return image_digest[:KEY_CHARS] + (f"-{number}" if number > 1 else "")

    def _drop_unfinished(self) -> None:
        finished = {shard_name(index) for index in range(self.progress.num_shards)}
        for path in self.output_path.iterdir():
            if path.stem not in finished:
                path.unlink()

    def _journal(self, index: int) -> Path:
        return self.journal_path / f"{shard_name(index)}.json"

    def _rejected(self, index: int) -> Path:
        return self.journal_path / f"{shard_name(index)}.rejected.parquet"
