"""Images that workers put into files, and shards that workers write: the same datasets, and nothing left lying."""

import hashlib
import os
from contextlib import contextmanager
from itertools import chain, count, islice

import pytest

from softalign.data.curation import decoding_memory, journal, pipeline, spooling
from softalign.data.curation.pipeline import curate
from softalign.data.curation.samples import Sample
from softalign.data.curation.tars import ShardWriter
from softalign.engines.work import InProcess
from softalign.errors import DataError, StorageUnavailableError
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

    def run(engine, key="k", **options):
        left = []

        @contextmanager
        def opened(_runtime):
            yield engine

        def entries(folder, number):
            left.extend(os.listdir(folder.spool))
            return entries_of(folder, number)

        monkeypatch.setattr(pipeline, "open_engine", opened)
        monkeypatch.setattr(journal.RunFolder, "entries_of_shards", entries)
        return curate(configure(handover.coco()).model_copy(update=options), place, key).files_digest, left

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


def made_sample(name, image, **facts):
    return Sample("0-coco", name, ("a caption",), image, "jpg", hashlib.sha256(image).hexdigest(), 1, 64, 48, **facts)


def test_a_shard_is_packed_again_with_the_same_bytes(tmp_path):
    made = (made_sample(f"{n}.jpg", bytes(700 * n)) for n in (1, 2))
    samples = tuple((spooling.spooled(sample, str(tmp_path)), sample.image_digest[-32:]) for sample in made)
    shard = spooling.ShardToPack(0, tmp_path, tmp_path / "output", samples, 0.1, captions_in_tars=True)
    assert spooling.pack(shard) == spooling.pack(shard)
    spooling.drop_images(sample for sample, _ in samples)
    assert os.listdir(tmp_path) == ["output"]


@pytest.mark.parametrize("is_symbolic", [False, True])
def test_a_file_of_this_machine_gets_a_second_name_and_no_copy(tmp_path, is_symbolic):
    original, spool = tmp_path / "original.jpg", tmp_path / "spool"
    spool.mkdir()
    original.write_bytes(b"an image")
    named = original
    if is_symbolic:
        named = tmp_path / "named.jpg"
        named.symlink_to("original.jpg")
    sample = made_sample("named.jpg", b"an image")
    handed = spooling.spooled(sample, str(spool), str(named))
    assert os.path.samefile(handed.path, original) and not os.path.islink(handed.path)
    assert spooling.with_image(handed) == sample
    original.unlink()
    assert spooling.with_image(handed) == sample
    spooling.drop_images([handed])
    assert os.listdir(spool) == []


@pytest.mark.parametrize("original", ["", "not there.jpg"])
def test_without_a_second_name_there_is_a_copy(tmp_path, original):
    sample = made_sample("a.jpg", b"an image")
    handed = spooling.spooled(sample, str(tmp_path), original)
    assert spooling.with_image(handed) == sample


def test_a_file_that_is_written_to_meanwhile_is_not_stored(tmp_path):
    original = tmp_path / "original.jpg"
    original.write_bytes(b"an image")
    handed = spooling.spooled(made_sample("original.jpg", b"an image"), str(tmp_path), str(original))
    original.write_bytes(b"another one")
    with pytest.raises(DataError, match="An image was changed") as caught:
        spooling.with_image(handed)
    assert caught.value.where == "0-coco: original.jpg"
    assert "run the same command again" in str(caught.value)


@pytest.mark.parametrize("image_format", ["keep", "png"])
def test_workers_link_what_is_stored_as_it_is(curated, handover, monkeypatch, image_format):
    linked = []
    monkeypatch.setattr(spooling, "_try_link", lambda original, _: bool(linked.append(original)))
    expected, _ = curated(InProcess(), key="alone", image_format=image_format)
    assert curated(WorkersHere(), image_format=image_format) == (expected, [])
    files = {str(handover.images / f"{number:03d}.png") for number in range(23)}
    assert files & set(linked) == (files if image_format == "keep" else set())


def test_a_run_whose_image_is_written_to_stops_and_goes_on_with_the_new_one(curated, handover):
    class Writing(WorkersHere):
        def map(self, work, items):
            for number, result in enumerate(super().map(work, items)):
                yield result
                if number == 1:
                    handover.images.joinpath("001.png").write_bytes((handover.images / "000.png").read_bytes())

    with pytest.raises(DataError, match="An image was changed"):
        curated(Writing())
    digest, left = curated(WorkersHere())
    assert (digest, left) == curated(InProcess(), key="alone")
