"""Encoded shards of a remote store within a limit: the same batches, never more on disk, nothing open removed."""

import subprocess
import sys
import uuid
from pathlib import Path

import fsspec
import pytest
import torch

from softalign.artifacts import FileEntry
from softalign.data.encoding.reader import EncodedReader
from softalign.errors import ConfigError, IntegrityError
from softalign.store.limited_cache import LimitedCache
from softalign.store.store import Store
from softalign.store.traffic import traffic
from tests.unit.data.encoding.test_reader import publish, same


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "encoded"


@pytest.fixture
def store():
    yield Store(f"memory://{uuid.uuid4().hex}")
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def manifest(store, tmp_path):
    """Publish 30 images in shards of 7: latents of 64 bytes, texts of 30 each."""
    samples = [(str(n), "train", [f"caption {n}{x}" * (1 + n % 3) for x in "ab"]) for n in range(30)]
    return publish(store, tmp_path, samples, "k")


def batches(manifest, store):
    reader = EncodedReader(manifest, store, split="train", batch_size=4, seed=0)
    return [reader.batch_at(cursor) for cursor in range(0, 120, 4)]


def on_disk(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) if folder.exists() else 0


def all_bytes(store):
    filesystem, path = fsspec.core.url_to_fs(store.uri)
    files = filesystem.find(f"{path}/encoded", detail=True)
    return sum(entry["size"] for name, entry in files.items() if name.endswith(".safetensors"))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.3, 0.01])
def test_the_same_batches_within_any_limit(manifest, store, cache, monkeypatch, share):
    expected = batches(manifest, store)
    total = all_bytes(store)
    assert on_disk(cache) == total, "without a limit all stays"
    limit = int(share * total)
    monkeypatch.setenv("SOFTALIGN_ENCODED_LIMIT", f"{limit}B")
    found = batches(manifest, store)
    assert all(same(one, other) for one, other in zip(found, expected, strict=True))
    texts = [[batch.text.prompt_embeds_NLD for batch in some] for some in (found, expected)]
    assert torch.equal(torch.cat(texts[0]), torch.cat(texts[1]))
    assert on_disk(cache) <= limit
    assert (on_disk(cache) > 0) == (share > 0.1), "what has room is kept"


def test_no_shard_is_fetched_twice_and_rows_cost_their_own_bytes(manifest, store, cache, monkeypatch):
    total = all_bytes(store)
    monkeypatch.setenv("SOFTALIGN_ENCODED_LIMIT", f"{total // 2}B")
    before = traffic().read_bytes
    batches(manifest, store)
    headers_and_lists = 30_000
    rows = 120 * (64 + 30)
    assert traffic().read_bytes - before < total // 2 + rows + headers_and_lists


def test_a_limit_that_is_no_size(manifest, store, cache, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_ENCODED_LIMIT", "some")
    with pytest.raises(ConfigError, match="no size"):
        batches(manifest, store)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: b"\xff" * len(data),
        lambda data: None,
        lambda data: data.replace(b'"dtype"', b'"dtypo"', 1),
        lambda data: data.replace(b'"data_offsets"', b'"data_offseta"', 1),
        lambda data: data.replace(b'"latents"', b'"latentz"', 1),
        lambda data: data.replace(b'"shape":[', b'"shape":[1', 1),
        lambda data: data.replace(b'"F16"', b'"F32"', 1),
        lambda data: (2).to_bytes(8, "little") + b"[]" + data[10:],
    ],
)
def test_a_damaged_shard_is_refused_by_its_parts_too(manifest, store, cache, monkeypatch, damage):
    monkeypatch.setenv("SOFTALIGN_ENCODED_LIMIT", "1B")
    filesystem, path = fsspec.core.url_to_fs(store.uri)
    for name in filesystem.glob(f"{path}/encoded/latents/*.safetensors"):
        data = damage(filesystem.cat_file(name))
        filesystem.rm_file(name)
        if data is not None:
            filesystem.pipe_file(name, data)
    with pytest.raises(IntegrityError, match="not what was published") as caught:
        batches(manifest, store)
    assert "encoded again" in caught.value.fix


HOLD = """
import sys
from pathlib import Path
from softalign.artifacts import FileEntry
from softalign.store.limited_cache import LimitedCache
path = LimitedCache(Path(sys.argv[1]), 100).admit(FileEntry(path="a", size_bytes=60, sha256="a" * 64))
path.write_bytes(bytes(60))
print("held", flush=True)
sys.stdin.read()
"""


def test_what_another_process_holds_stays_until_it_ends(tmp_path):
    folder = tmp_path / "encoded"
    cache = LimitedCache(folder, 100)
    (folder / "old").write_bytes(bytes(30))
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert (folder / "old").exists()
        assert cache.admit(FileEntry(path="b", size_bytes=50, sha256="b" * 64)) is None
        small = cache.admit(FileEntry(path="c", size_bytes=40, sha256="c" * 64))
        small.write_bytes(bytes(40))
        assert sorted(path.name[0] for path in folder.iterdir() if path.is_file()) == ["a", "c"]
        other.kill()
    assert cache.admit(FileEntry(path="b", size_bytes=50, sha256="b" * 64)) == folder / ("b" * 64)
    assert [path.name[0] for path in folder.iterdir() if path.is_file()] == ["c"], "which this process holds"
    assert not Path(folder / ("a" * 64)).exists()
