"""The curate stage: sources -> filters -> shards, one stream, resumable after any kill.

After each shard a journal entry is written with the position in the stream and the shard's checksums. A restart keeps
the shards whose checksums still hold, refills the duplicate filter from their indexes, and goes on at the position; so
it ends with the bytes of an undisturbed run. Beside an earlier version (``reuse``) only what it does not know is read.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from softalign.artifacts import DatasetManifest
from softalign.config.curation import CurationConfig
from softalign.config.runtime import Runtime
from softalign.data.curation.changes import list_samples_of
from softalign.data.curation.dedup import DuplicateFilter
from softalign.data.curation.draft import Draft
from softalign.data.curation.images import extension_of
from softalign.data.curation.journal import Finished, JournalEntry, Progress, RunFolder, Totals
from softalign.data.curation.merging import DuplicateCaptions, Merged, MergedShards
from softalign.data.curation.published import Placed
from softalign.data.curation.reading import HERE, Item, Result, name_of, sample_reader, sample_worker
from softalign.data.curation.rejections import REPAIRS, Failures, Rejection, nothing_left, reason_counts
from softalign.data.curation.repeated_texts import mark_repeated_texts
from softalign.data.curation.reuse import (
    Beside,
    EarlierVersion,
    ReadSample,
    ToConfirm,
    open_earlier,
    read_beside,
)
from softalign.data.curation.samples import ListedSample, Sample
from softalign.data.curation.shards import read_index, read_rejections, shard_name, write_rejections
from softalign.data.curation.sources import source_weights
from softalign.data.curation.spooling import PackedShard, Packing, ShardToPack, be_worker, drop_images, spooled
from softalign.engines.opening import open_engine
from softalign.engines.work import Engine, Work
from softalign.processes.progress import Figure
from softalign.processes.reporter import Reporter
from softalign.store.store import Store

NUM_READERS = 4
"""Images read and decoded ahead, in threads: enough to hide a store's latency, little memory."""
KEY_CHARS = 32


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
    earlier = (
        open_earlier(config, beside, store) if not config.filters.models else None
    )  # models judge pairs with captions
    run = _CurateRun(config, runtime, store.work_path("curate", key), earlier)
    run.restore()
    with warnings.catch_warnings(), open_engine(runtime) as engine:
        warnings.filterwarnings("ignore", module="PIL")  # of files that are kept, or rejected by name
        run.write_shards(engine, runtime)
    manifest = run.finish(key, parent_key)
    before = earlier.manifest if earlier is not None else None
    published = store.publish(
        manifest, run.place.output, beside=before, known=run.place.entries_of_shards(manifest.num_shards)
    )
    shutil.rmtree(run.place.root, ignore_errors=True)
    return published


class _CurateRun:
    """The state of one curation: the work folder, the duplicate filter and the counts."""

    def __init__(
        self, config: CurationConfig, runtime: Runtime, work_path: Path, earlier: EarlierVersion | None = None
    ) -> None:
        self.config, self.earlier = config, earlier
        self.failures = Failures(runtime.max_failed_share)
        self.place = RunFolder(work_path)
        self.place.make()
        self.duplicates = DuplicateFilter(config.filters)
        self.progress, self.num_kept = Progress(), 0
        self.num_begun = 0
        self.packing = Packing(self._enter)
        self.finished: dict[int, Finished] = {}
        self.extension = ""  # of the first image, and so of all
        self.of_duplicates = DuplicateCaptions(self.place.journal)
        self.merged = MergedShards(self.place.output, self.place.journal, work_path / "merged", config)

    def restore(self) -> None:
        """Take over the shards a former attempt finished; everything after the first damaged one is redone."""
        self.merged.put_in_place()
        while (entry := self.place.sound_entry(self.progress.num_shards)) is not None:
            rows = read_index(self.place.output / f"{shard_name(self.progress.num_shards)}.parquet")
            self.extension = rows[0].extension
            for row in rows:
                self._remember(row.image_digest, int(row.perceptual_hash, 16))
            self.failures.count(read_rejections(self.place.rejected(self.progress.num_shards)))
            self.progress.add_shard(Totals.of(rows), entry)
        self.num_begun = self.progress.num_shards
        self._drop_unfinished()

    def write_shards(self, engine: Engine, runtime: Runtime) -> None:
        """Run the stream from where the finished shards end; an engine reads the images, this process writes."""
        first, self.num_kept = self.progress.num_seen, self.progress.num_samples
        with Reporter("curate", "images", None, num_reused=first) as images:
            listing = partial(self._listed, images)
            rest = islice(mark_repeated_texts(listing, self.config.filters), first, None)
            self._write(images.over(self._read(rest, engine, runtime), self._watched_figures), engine)

    def _listed(self, images: Reporter) -> Iterator[ListedSample]:
        def on_total(total: int) -> None:
            self.failures.expect(total)
            images.expect(total)

        return list_samples_of(self.config, self.place.root / "sources", on_total)

    def _read(self, listed: Iterator[ListedSample], engine: Engine, runtime: Runtime) -> Iterator[ReadSample]:
        asks_models = bool(self.config.filters.models)
        share = partial(be_worker, str(self.place.spool) if self.earlier is None else "")
        work = Work[Item, Result](
            sample_worker,
            (self.config, runtime),
            asks_models,
            NUM_READERS,
            name_of=name_of,
            share_machine=share,
        )

        def read_all(items: Iterable[ListedSample | ToConfirm]) -> Iterator[ReadSample]:
            return self.packing.sifted(engine.map(work, self.packing.among(items)))

        if self.earlier is None:
            return read_all(listed)
        return read_beside(listed, self.earlier, self.config, read_all, sample_reader(self.config, runtime))

    def _write(self, samples: Iterable[ReadSample], engine: Engine) -> None:
        draft: Draft | None = None
        rejections: list[Rejection] = []
        num_seen = self.progress.num_seen
        for read in samples:
            num_seen += 1
            rejections.extend(read.rejections)
            self.failures.count(read.rejections)
            for known in read.rejections:
                self.of_duplicates.note(known, read.captions, read.rejections)
            duplicate = self.duplicates.check(read.sample) if read.sample is not None else None
            if read.sample is not None and duplicate is not None:
                rejections.append(duplicate)
                self.of_duplicates.note(duplicate, read.sample.captions, read.rejections)
            if read.sample is None or duplicate is not None:
                if self.earlier is not None and read.placed is not None:
                    self.earlier.lost()
                drop_images([read.sample] if read.sample is not None else [])
                continue
            draft = draft if draft is not None else self._new_draft()
            key = self._remember(read.sample.image_digest, read.sample.perceptual_hash)
            self.extension = self.extension or self._extension_of(read.sample, read.placed)
            self._add(draft, replace(read.sample, extension=self.extension), read.placed, key)
            self.num_kept += 1
            if len(draft) == self.config.samples_per_shard:
                self._finish_shard(draft, rejections, num_seen)
                draft, rejections = None, []
        if draft is not None:
            self._finish_shard(draft, rejections, num_seen)
            rejections = []
        self.packing.pack_rest(engine)
        self.progress.num_seen = num_seen
        write_rejections(self.place.rejected(self.progress.num_shards), rejections)
        self.of_duplicates.write(self.progress.num_shards)

    def _add(self, draft: Draft, sample: Sample, placed: Placed | None, key: str) -> None:
        if self.packing.is_used and not sample.path:
            sample = spooled(sample, str(self.place.spool))
        draft.add(sample, placed, key)
        if not draft.to_pack:
            drop_images([sample])

    def _extension_of(self, sample: Sample, placed: Placed | None) -> str:
        """Return the extension of the first image's format, which an earlier version may have under another one."""
        if placed is None or self.earlier is None or self.config.image_format != "keep":
            return sample.extension
        return extension_of(self.earlier.with_image(sample, placed).image)

    def _watched_figures(self) -> tuple[Figure, ...]:
        return (Figure(name="kept", value=self.num_kept),)

    def finish(self, key: str, parent_key: str) -> DatasetManifest:
        """Write the list of rejections and return the manifest.

        Raises:
            DataError: no sample is left.
        """
        parts = [self.place.rejected(index) for index in range(self.progress.num_shards + 1)]
        rejections = [rejection for part in parts if part.is_file() for rejection in read_rejections(part)]
        repaired = [rejection for rejection in rejections if rejection.reason in REPAIRS]
        rejections = [rejection for rejection in rejections if rejection.reason not in REPAIRS]
        if not self.progress.num_samples:
            raise nothing_left(rejections, self.progress.num_seen, self.config.sources)
        merged = self._merge_captions()
        rejections += merged.rejections
        write_rejections(self.place.output / "rejected.parquet", rejections)
        if repaired:
            write_rejections(self.place.output / "repaired.parquet", repaired)
        return DatasetManifest(
            stage_key=key,
            name=self.config.name,
            num_samples=self.progress.num_samples,
            num_captions=self.progress.num_own_captions + merged.num_captions,
            num_merged_captions=merged.num_captions,
            num_val_samples=self.progress.num_val_samples,
            num_shards=self.progress.num_shards,
            total_bytes=sum(path.stat().st_size for path in self.place.output.glob("shard-*.tar")),
            num_seen=self.progress.num_seen,
            rejected=reason_counts(rejections),
            repaired=reason_counts(repaired),
            parent_key=parent_key,
            weights=source_weights(self.config.sources),
        )

    def _merge_captions(self) -> Merged:
        notes = self.of_duplicates.read(self.progress.num_shards)
        if not notes and not self.progress.num_merged_captions:
            return Merged(0, ())
        return self.merged.merge(self.progress.num_shards, notes)

    def _new_draft(self) -> Draft:
        self.num_begun += 1
        return Draft(self.num_begun - 1, self.place.output, self.config, self.earlier)

    def _finish_shard(self, draft: Draft, rejections: list[Rejection], num_seen: int) -> None:
        index, config = draft.index, self.config
        write_rejections(self.place.rejected(index), rejections)
        lists = self.place.entries(self.place.rejected(index), self.of_duplicates.write(index))
        self.finished[index] = Finished(num_seen, lists, tuple(draft.nums_own_captions))
        if draft.to_pack:
            samples, in_tars = tuple(draft.to_pack), config.captions_in_tars
            shard = ShardToPack(index, self.place.root, self.place.output, samples, config.val_share, in_tars)
            self.packing.add(shard)
        else:
            totals = Totals.of(draft.close())
            self._enter(PackedShard(index, self.place.entries(*draft.paths), totals))

    def _enter(self, packed: PackedShard) -> None:
        """Write the journal entry of a shard: from then on a restart keeps it."""
        finished = self.finished.pop(packed.index)
        files = (*packed.files, *finished.lists)
        entry = JournalEntry(num_seen=finished.num_seen, files=files, nums_own_captions=finished.nums_own_captions)
        self.place.enter(packed.index, entry)
        self.progress.add_shard(packed.totals, entry)

    def _remember(self, image_digest: str, perceptual_hash: int) -> str:
        """Note an accepted image and return its key: from its content, numbered where exact duplicates are kept."""
        number = self.duplicates.accept(image_digest, perceptual_hash)
        if self.earlier is not None:
            self.earlier.accepted(image_digest)
        return image_digest[:KEY_CHARS] + (f"-{number}" if number > 1 else "")

    def _drop_unfinished(self) -> None:
        finished = {shard_name(index) for index in range(self.progress.num_shards)}
        for path in self.place.output.iterdir():
            if path.stem not in finished:
                path.unlink()
