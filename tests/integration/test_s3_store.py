"""A store on a real S3 server (SeaweedFS): published once, raced, damaged, refused and out of reach."""

import gzip
import os
import re
import shutil
import socket
import tarfile
import threading
import time
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softalign.artifacts import DatasetManifest, EncodedManifest
from softalign.config import (
    BackboneConfig,
    CocoSource,
    CurationConfig,
    FolderSource,
    HFSource,
    ParquetSource,
    Runtime,
    ShapesSource,
    TableSource,
    TrainConfig,
    WebDatasetSource,
)
from softalign.data.curation.changes import CaptionEdit, to_lines
from softalign.data.curation.fingerprint import source_fingerprint
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.pipeline import curate
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.rejections import Flaw, ItemError
from softalign.data.curation.reuse import Beside
from softalign.data.curation.sources import check_source, list_samples
from softalign.data.curation.tables import read_table
from softalign.data.encoding.encode import encode
from softalign.data.encoding.reader import EncodedReader
from softalign.data.exporting import export_dataset
from softalign.data.versions.finding import find_dataset
from softalign.data.versions.reporting import keep_report, report_uri
from softalign.errors import ConfigError, IntegrityError, MissingInputError, StorageUnavailableError
from softalign.shapes.rendering import render_source
from softalign.store import probing
from softalign.store.files import create_file, open_filesystem, read_bytes
from softalign.store.probing import PROBE_PREFIX, probe
from softalign.store.store import Store
from softalign.store.traffic import traffic
from softalign.training.train import train
from softalign.upkeep.garbage import find_garbage
from softalign.upkeep.removing import remove_garbage
from tests.s3_policy import allows, needs_of
from tests.steps import request_of
from tests.tiny_pipeline import save_tiny_pipeline
from tests.unit.data.encoding.test_reader import publish as publish_encoded
from tests.unit.data.encoding.test_reader import same as same_batch
from tests.unit.training import tiny_training as tiny

BUCKET = "softalign"
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 3}}
"""Seconds: a request that a loaded server lost fails here, instead of after the client's five times a minute."""


@pytest.fixture(autouse=True)
def environment(stack, monkeypatch, tmp_path):
    for name, value in stack.exports.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": TIMEOUTS})
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def role():
    """Return whose policy a test works under; ``parametrize`` names another."""
    return "worker"


@pytest.fixture(autouse=True)
def asked(environment, role, monkeypatch):
    """Hold every call against the role's policy, which has ``store`` where the tests have a name of their own."""
    kind, refused, methods = fsspec.get_filesystem_class("s3"), [], set()
    call = kind._call_s3

    async def recorded(self, method, *parts, **more):
        arguments = {name: value for part in (*parts, more) for name, value in part.items()}
        methods.add(method)
        if arguments["Bucket"] == BUCKET:
            needs = [(action, re.sub("^[^/]+", "store", key)) for action, key in needs_of(method, arguments)]
            refused.extend(need for need in needs if not allows(role, *need))
        return await call(self, method, *parts, **more)

    monkeypatch.setattr(kind, "_call_s3", recorded)
    yield methods
    assert refused == []


@pytest.fixture
def store():
    return Store(f"s3://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def make_folder(tmp_path):
    def make(**contents):
        folder = tmp_path / uuid.uuid4().hex
        folder.mkdir()
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        return folder

    return make


@pytest.fixture
def manifest():
    counts = dict.fromkeys(
        ("num_samples", "num_captions", "num_val_samples", "num_shards", "total_bytes", "num_seen"), 1
    )
    return DatasetManifest(stage_key="key", name="test", **counts)


def test_what_was_asked_for_is_published_beside_the_record_and_read_again(store):
    from softalign.config import load_recipe
    from softalign.stages.requests import asking
    from softalign.stages.what_changed import nearest_changes

    counts = ("num_samples", "num_captions", "num_val_samples", "num_shards", "total_bytes", "num_seen")
    for size in (7, 512):
        recipe = load_recipe("shapes", ["curation.val_share=0.3", f"curation.samples_per_shard={size}"])
        request = request_of(recipe, "curate")
        key = request.key
        with asking(request, store):
            folder = store.work_path("curate", key) / "out"
            folder.mkdir()
            record = DatasetManifest(stage_key=key, name="test", **dict.fromkeys(counts, 1))
            store.publish(record, folder)
    asked = request_of(load_recipe("shapes"), "curate")
    found = nearest_changes(asked, DatasetManifest, store)
    assert [change.text for change in found] == ["curation.val_share: 0.3 -> 0.05"]
    assert nearest_changes(asked.model_copy(update={"stage": "encode"}), EncodedManifest, store) is None


def test_published_once_and_read_back(store, manifest, make_folder, tmp_path, asked):
    assert store.find(DatasetManifest, "key") is None
    contents = {"small": b"1", "empty": b"", "large": os.urandom(12 << 20)}
    published = store.publish(manifest, make_folder(**contents))
    assert store.find(DatasetManifest, "key") == published
    assert store.publish(manifest, make_folder(**contents)) == published
    root = store.fetch(published)
    assert {name: (root / name).read_bytes() for name in contents} == contents
    local = Store(str(tmp_path / "local")).publish(manifest, make_folder(**contents))
    assert local.digest == published.digest
    assert {"put_object", "get_object", "head_object", "list_objects_v2"} <= asked


def test_a_refresh_copies_equal_shards_within_the_store(store, tmp_path, asked):
    config = CurationConfig(name="scenes", sources=(ShapesSource(num_scenes=30),), samples_per_shard=10)
    parent = curate(config, store, "parent")
    row = next(OpenedDataset(parent, store).samples()).row
    edit = CaptionEdit(source=row.source, file_name=row.file_name, action="add", caption="one more")
    uri = f"{store.uri}/captions/changes.jsonl"
    create_file(uri, to_lines([edit]))
    changed = config.model_copy(update={"caption_changes": (uri,)})
    before = traffic().written_bytes
    asked.clear()
    child = curate(changed, store, "child", parent_key="parent", beside=Beside("parent"))
    assert "copy_object" in asked and traffic().written_bytes - before < parent.total_bytes / 2
    assert child.digest == curate(changed, Store(str(tmp_path / "nothing")), "child", parent_key="parent").digest
    store.fetch(child)
    assert find_dataset("scenes", store) == child and find_dataset(child.uri, store) == child
    keep_report(child, store)
    assert b"Dataset scenes" in read_bytes(report_uri(child, store))


def test_an_export_there_is_that_of_a_local_folder_and_goes_on(store, tmp_path):
    scenes = ShapesSource(num_scenes=20)
    config = CurationConfig(name="scenes", sources=(scenes,), samples_per_shard=8, captions_in_tars=False)
    dataset, place = curate(config, store, "apart"), f"{store.uri}-export"
    assert export_dataset(dataset, f"{place}/", store).num_written == dataset.num_shards
    export_dataset(dataset, str(tmp_path / "out"), store)
    local = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name: read_bytes(f"{place}/{name}") for name in local} == local and len(local) == dataset.num_shards + 1
    filesystem, path = open_filesystem(place)
    filesystem.pipe_file(f"{path}/shard-000001.tar", b"cut")
    assert export_dataset(dataset, place, store).num_written == 1
    other = curate(config.model_copy(update={"name": "other"}), store, "other")
    with pytest.raises(ConfigError, match="an export of scenes"):
        export_dataset(other, place, store)


def test_other_content_is_refused(store, manifest, make_folder):
    published = store.publish(manifest, make_folder(a=b"1"))
    with pytest.raises(IntegrityError, match="nothing was overwritten"):
        store.publish(manifest, make_folder(a=b"2"))
    assert (store.fetch(published) / "a").read_bytes() == b"1"


@pytest.mark.parametrize("contents", [(b"1", b"1"), (b"1", b"2")], ids=["same", "other"])
def test_two_writers_at_once(store, manifest, make_folder, contents):
    barrier, outcomes = threading.Barrier(2), [None, None]
    folders = [make_folder(a=data, b=b"x" * 100_000) for data in contents]

    def write(index):
        barrier.wait()
        try:
            outcomes[index] = Store(store.uri).publish(manifest, folders[index])
        except IntegrityError as error:
            outcomes[index] = error

    threads = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    winner = store.find(DatasetManifest, "key")
    data = (store.fetch(winner) / "a").read_bytes()
    assert [isinstance(outcome, IntegrityError) for outcome in outcomes] == [data != own for own in contents]


def test_a_file_is_created_once(store):
    assert create_file(f"{store.uri}/note", b"1")
    assert not create_file(f"{store.uri}/note", b"2")
    assert read_bytes(f"{store.uri}/note") == b"1"


@pytest.mark.parametrize("damage", [b"", b"2"])
def test_a_damaged_object_is_refused(store, manifest, make_folder, damage):
    published = store.publish(manifest, make_folder(a=b"1"))
    filesystem, path = fsspec.core.url_to_fs(f"{published.uri}/a")
    filesystem.pipe_file(path, damage)
    with pytest.raises(IntegrityError, match="not what was published"):
        store.fetch(published)


def test_wrong_keys_are_refused_once_and_for_all(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ConfigError, match="refused access"):
        store.find(DatasetManifest, "key")


def test_a_server_that_is_down_may_answer_later(store, monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageUnavailableError) as caught:
        store.find(DatasetManifest, "key")
    assert caught.value.is_retriable


def test_a_probe_leaves_nothing_and_knows_the_clock(store):
    found = probe(store)
    assert abs(found.clock_skew_s) < 60
    assert found.seconds > 0
    filesystem, path = open_filesystem(store.uri)
    filesystem.invalidate_cache()
    assert not [name for name in filesystem.find(path) if PROBE_PREFIX in name]


@pytest.mark.parametrize("role", ["keeper"])
def test_garbage_goes_and_what_is_published_stays(store, manifest, make_folder):
    kept = store.publish(manifest, make_folder(data=b"kept"))
    filesystem, root = open_filesystem(store.uri)
    for name in (
        "curate/half/0123456789abcdef/data",
        f"curate/{manifest.stage_key}/0000/data",
        "checkpoints/k/step-1/a",
    ):
        filesystem.pipe_file(f"{root}/{name}", b"left")
    assert find_garbage(store, time.time() - 3600) == ()  # a publish in progress is young
    soon = time.time() + 60
    found = find_garbage(store, soon)
    assert [one.place for one in found] == ["checkpoints/k", "curate/half", f"curate/{manifest.stage_key}/0000"]
    assert remove_garbage(found, store, soon) == found
    assert find_garbage(store, soon) == ()
    assert (store.fetch(kept) / "data").read_text() == "kept"


def test_a_probe_names_what_is_wrong_with_the_store(store, monkeypatch):
    with pytest.raises(MissingInputError, match="store does not exist"):
        probe(Store("s3://no-such-bucket/store"))
    monkeypatch.setattr(probing, "create_file", lambda place, data: create_file(place, data) or True)
    with pytest.raises(ConfigError, match="If-None-Match"):
        probe(store)


def test_curate_encode_and_read_there(store, tmp_path):
    rendered = render_source(ShapesSource(num_scenes=40, seed=3), tmp_path / "scenes")
    remote = f"{store.uri}/handover"
    filesystem, base = fsspec.core.url_to_fs(remote)
    filesystem.put(rendered.images_uri, f"{base}/images", recursive=True)
    filesystem.put_file(rendered.annotations_uri, f"{base}/captions.json")
    source = CocoSource(annotations_uri=f"{remote}/captions.json", images_uri=f"{remote}/images")
    config = CurationConfig(name="test", sources=(source,), samples_per_shard=16, val_share=0.2)
    backbone = BackboneConfig(model=save_tiny_pipeline(tmp_path / "model"), resolution_px=32)

    dataset = curate(config, store, "d")
    encoded = encode(dataset, backbone, Runtime(), store, "e")
    assert store.find(EncodedManifest, "e") == encoded
    elsewhere = Store(str(tmp_path / "local"))
    assert curate(config, elsewhere, "d").digest == dataset.digest
    local = encode(elsewhere.find(DatasetManifest, "d"), backbone, Runtime(), elsewhere, "e")
    assert local.digest == encoded.digest

    shutil.rmtree(tmp_path / "cache")
    readers = [
        EncodedReader(manifest, place, split="train", batch_size=4, seed=0)
        for manifest, place in ((encoded, store), (local, elsewhere))
    ]
    batches = [reader.batch_at(8) for reader in readers]
    assert batches[0].keys == batches[1].keys
    assert batches[0].latents_BCHW.equal(batches[1].latents_BCHW)


@pytest.mark.parametrize("limit", ["1B", "40kB"])
def test_encodings_within_a_limit_are_the_same_there(store, tmp_path, monkeypatch, limit):
    samples = [(str(n), "train", [f"caption {n}"]) for n in range(30)]
    local = Store(str(tmp_path / "local"))
    manifests = [publish_encoded(place, tmp_path / name, samples, "k") for name, place in (("a", store), ("b", local))]
    monkeypatch.setenv("SOFTALIGN_ENCODED_LIMIT", limit)
    readers = [
        EncodedReader(manifest, place, split="train", batch_size=4, seed=0)
        for manifest, place in zip(manifests, (store, local), strict=True)
    ]
    for cursor in range(0, 40, 4):
        one, two = (reader.batch_at(cursor) for reader in readers)
        assert same_batch(one, two)
        assert one.text.prompt_embeds_NLD.equal(two.text.prompt_embeds_NLD)
    copies = [path for path in (tmp_path / "cache" / "encoded").iterdir() if path.is_file()]
    assert bool(copies) == (limit != "1B")


def test_images_and_tables_there_fail_one_by_one(store, monkeypatch):
    filesystem, base = fsspec.core.url_to_fs(store.uri)
    names = ("a b.jpg", "50% off.jpg", "what?versionId=1.jpg", "a#b+c.jpg", "a::b.jpg", "\u732b.jpg")
    for name in names:
        filesystem.pipe_file(f"{base}/images/{name}", name.encode())
    images = ImageFolder(f"{store.uri}/images", names)
    assert [images.read(name) for name in names] == [name.encode() for name in names]
    for name in ("gone.jpg", "a b.jpg/below.jpg", "x" * 2000):
        with pytest.raises(ItemError) as caught:
            images.read(name)
        assert caught.value.flaw == Flaw("missing_image")
    filesystem.pipe_file(f"{base}/table/part-0.parquet", b"PAR1")
    with pytest.raises(MissingInputError, match="a folder with part-0"):
        read_table(f"{store.uri}/table")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ConfigError, match="refused access"):
        images.read(names[0])


def test_sources_of_all_kinds_there_list_what_local_ones_do(store, tmp_path):
    here, there = tmp_path / "handover", f"{store.uri}/handover"
    for name in ("images", "tables", "hf"):
        (here / name).mkdir(parents=True)
    for number in range(3):
        (here / f"images/{number}.jpg").write_bytes(b"image")
        (here / f"images/{number}.txt").write_text(f"caption {number}")
        rows = f"file_name,caption\n{number}.jpg,caption {number}\ngone.jpg,x\n"
        (here / f"tables/part-{number}.csv.gz").write_bytes(gzip.compress(rows.encode(), mtime=0))
        with tarfile.open(here / f"{number:05d}.tar", "w") as tar:
            for name in (f"{number}.jpg", f"{number}.txt"):
                tar.add(here / "images" / name, name)
    table = pa.table({"image": [{"bytes": b"one", "path": "a.jpg"}], "caption": ["caption"]})
    with pa.ipc.new_stream(here / "hf/data.arrow", table.schema) as writer:
        writer.write_table(table)
    (here / "hf/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    pq.write_table(table, here / "held.parquet", row_group_size=1)
    filesystem, base = fsspec.core.url_to_fs(there)
    filesystem.put(f"{here}/", f"{base}/", recursive=True)

    def sources(root):
        images = f"{root}/images"
        return (
            *(
                TableSource(table_uri=f"{root}/{uri}", images_uri=images)
                for uri in ("tables", "tables/part-[01].csv.gz")
            ),
            *(WebDatasetSource(shards_uri=f"{root}/{uri}") for uri in ("{00000..00002}.tar", "*.tar")),
            FolderSource(images_uri=images),
            HFSource(dataset_uri=f"{root}/hf"),
            ParquetSource(table_uri=f"{root}/held.parquet", images_uri=images, image_column="image"),
        )

    for local, remote in zip(sources(here), sources(there), strict=True):
        check_source(remote)
        found = [list(list_samples(source, "s", tmp_path)) for source in (local, remote)]
        assert len(found[0]) > 0
        local_ones, remote_ones = ([(s.filename, s.captions, s.flaw) for s in samples] for samples in found)
        assert local_ones == remote_ones
        assert found[1][0].images.read(found[1][0].filename) in {b"image", b"one"}
        assert source_fingerprint(remote) == source_fingerprint(remote)
    with pytest.raises(MissingInputError):
        check_source(TableSource(table_uri=f"{there}/nowhere/*.csv"))

    parts = sources(there)[0]
    before, elsewhere = source_fingerprint(parts), fsspec.filesystem("s3", skip_instance_cache=True)
    elsewhere.pipe_file(f"{base}/tables/part-3.csv", b"file_name,caption\n0.jpg,one more\n")
    assert source_fingerprint(parts) != before, "what another process adds is seen"
    assert len(next(iter(list_samples(parts, "s", tmp_path))).captions) == 2


def test_training_goes_on_from_there_on_a_fresh_machine(store, tmp_path, caplog):
    rendered = render_source(ShapesSource(num_scenes=24, seed=3), tmp_path / "scenes")
    source = CocoSource(annotations_uri=rendered.annotations_uri, images_uri=rendered.images_uri)
    curation = CurationConfig(name="test", sources=(source,), val_share=0.3)
    backbone = BackboneConfig(model=save_tiny_pipeline(tmp_path / "model"), resolution_px=32)
    config = TrainConfig(num_steps=6, validate_every_steps=3, export_step="best")
    runtime = Runtime(num_threads=1, checkpoint_every_steps=2)

    def train_in(place):
        encoded = place.find(EncodedManifest, "e") or encode(
            curate(curation, place, "d"), backbone, runtime, place, "e"
        )
        return train(encoded, backbone, config, runtime, place, "t", "test")

    filesystem, path = fsspec.core.url_to_fs(f"{store.uri}/checkpoints/t")

    def die(step):
        deadline = time.monotonic() + 60
        while step == 4 and time.monotonic() < deadline:
            filesystem.invalidate_cache()
            if filesystem.exists(f"{path}/step-00000004/checkpoint.json"):
                raise KeyboardInterrupt
            time.sleep(0.1)

    with tiny.steps_counted(before=die), pytest.raises(KeyboardInterrupt):
        train_in(store)
    shutil.rmtree(tmp_path / "cache")
    with caplog.at_level("INFO"):
        there = train_in(store)
    assert "resuming at step 4" in caplog.text
    assert there.weights_sha256 == train_in(Store(str(tmp_path / "local"))).weights_sha256
    filesystem.invalidate_cache()
    assert [name for name in filesystem.find(path) if name != path] == []  # this server's empty folders go later
