"""Images that workers put into files, and shards that workers write: the same datasets, and nothing left lying."""

import os
from contextlib import contextmanager
from itertools import chain, count, islice

import pytest

from softalign.data.curation import decoding_memory, journal, pipeline, spooling
from softalign.data.curation.pipeline import curate
from softalign.data.curation.samples import Sample
from softalign.data.curation.tars import ShardWriter
from softalign.engines.work import InProcess
from softalign.errors import StorageUnavailableError
from softalign.store.store import Store
from tests.killing import Fuse, is_killed


class WorkersHere:
    """An engine like a process pool: after some items of its own everything is done by workers, which are this process.

    Args:
        own: how many items the stage's process does first.
        most: after how many results the store goes away.
    """

    def __init__(self, own=0, most=None):
        self.own, self.most, self.packed = own, most, []

    def map(self, work, items):
        rest, here = iter(items), InProcess()
        results = chain(here.map(work, islice(rest, self.own)), self._by_workers(work, rest))
        for number in count():
            if number == self.most:
                raise StorageUnavailableError("The store did not answer.")
            try:
                result = next(results)
            except StopIteration:
                return
            if isinstance(result, spooling.PackedShard):
                self.packed.append(result.index)
            yield result

    def _by_workers(self, work, items):
        if work.share_machine is not None:
            work.share_machine(1)
        try:
            yield from InProcess().map(work, items)
        finally:
            spooling._HERE.folder = ""


@pytest.fixture
def curated(handover, configure, monkeypatch, tmp_path):
    """Curate 23 pictures, with two copies and a file that is none, in shards of 4; return digest and spool."""
    monkeypatch.setattr(decoding_memory, "share_machine", lambda number: None)
    handover.add_pictures(12)
    for name, other in (("a.png", "003.png"), ("b.png", "007.png")):
        handover.add(name, [f"a copy of {other}"], data=(handover.images / other).read_bytes())
    handover.add("c.png", ["no picture"], data=b"none")
    handover.add_pictures(11, start=12)
    place, entries_of = Store(str(tmp_path / "store")), journal.RunFolder.entries_of_shards

    def run(engine, key="k"):
        left = []

        @contextmanager
        def opened(_runtime):
            yield engine

        def entries(folder, number):
            left.extend(os.listdir(folder.spool))
            return entries_of(folder, number)

        monkeypatch.setattr(pipeline, "open_engine", opened)
        monkeypatch.setattr(journal.RunFolder, "entries_of_shards", entries)
        return curate(configure(handover.coco()), place, key).files_digest, left

    return run


@pytest.mark.parametrize("own", [0, 3, 4, 6, 25])
def test_shards_that_workers_write_are_those_of_one_process(curated, own):
    expected, _ = curated(InProcess(), key="alone")
    engine = WorkersHere(own)
    assert curated(engine) == (expected, [])
    begun = -(-own // 4) if own < 12 else 6  # a shard stays with whoever read its first image
    assert engine.packed == list(range(begun, 6))


@pytest.mark.parametrize("most", [1, 9, 14, 22, 27])
def test_a_run_that_is_stopped_goes_on_from_its_shards_and_leaves_no_image(curated, most):
    expected, _ = curated(InProcess(), key="alone")
    with pytest.raises(StorageUnavailableError):
        curated(WorkersHere(most=most))
    assert curated(WorkersHere()) == (expected, [])


def test_killed_at_many_points_it_ends_with_the_same_bytes(curated):
    expected, _ = curated(InProcess(), key="alone")
    num_kills = 0

    def work():
        fuse = Fuse(4 + 7 * num_kills)
        for module, name in ((spooling, "spooled"), (spooling, "file_entry"), (journal, "write_atomically")):
            setattr(module, name, fuse.wrap(getattr(module, name)))
        for owner, name in ((ShardWriter, "add"), (ShardWriter, "close"), (spooling.Packing, "_finish")):
            setattr(owner, name, fuse.wrap(getattr(owner, name)))
        curated(WorkersHere())

    while is_killed(work):
        num_kills += 1
    assert num_kills >= 3
    assert curated(WorkersHere())[0] == expected


def test_a_shard_is_packed_again_with_the_same_bytes(tmp_path):
    made = (Sample("0-coco", f"{n}.jpg", ("a caption",), bytes(700 * n), "jpg", f"{n:064x}", n, 64, 48) for n in (1, 2))
    samples = tuple((spooling.spooled(sample, str(tmp_path)), sample.image_digest[-32:]) for sample in made)
    shard = spooling.ShardToPack(0, tmp_path, tmp_path / "output", samples, 0.1, captions_in_tars=True)
    assert spooling.pack(shard) == spooling.pack(shard)
    spooling.drop_images(sample for sample, _ in samples)
    assert os.listdir(tmp_path) == ["output"]
