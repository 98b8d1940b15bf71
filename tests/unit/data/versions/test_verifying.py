"""Whether a published dataset, or a set of encodings, still is what was published."""

import json
import shutil
import uuid
from pathlib import Path

import pytest

from softalign.cli.app import app
from softalign.data.curation.pipeline import curate
from softalign.data.verifying import find_published, verify
from softalign.errors import IntegrityError, MissingInputError
from softalign.store.files import open_filesystem
from softalign.store.store import Store
from tests.sample_records import ENCODED
from tests.unit.data.versions.conftest import Handover

KEY = "ab" * 32


@pytest.fixture
def dataset(tmp_path, publish):
    return publish(Handover(tmp_path / "handover").add_pictures(10).coco(), KEY).manifest


def verified(reference, store):
    return verify(find_published(reference, store), store)


def flip(path, at=-1):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_the_command_names_each_damaged_and_missing_file(dataset, store, capsys):
    app(["data", "verify", "test", "--store", store.uri], standalone_mode=False)
    assert "all as published" in capsys.readouterr().out
    folder = Path(dataset.uri)
    flip(folder / "shard-000000.tar", 700)
    (folder / "shard-000001.parquet").unlink()
    listed = {entry.path: entry for entry in store.files(dataset)}
    code = app(["data", "verify", "test", "--store", store.uri, "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert code == 1 and not said["is_sound"] and said["num_files"] == len(listed)
    tar, index = said["flaws"]
    assert (tar["uri"], index["uri"]) == (f"{folder}/shard-000000.tar", f"{folder}/shard-000001.parquet")
    entry = listed["shard-000000.tar"]
    assert tar["expected"] == f"{entry.size_bytes} bytes, sha256 {entry.sha256}"
    assert tar["found"].startswith(f"{entry.size_bytes} bytes, sha256 ") and tar["found"] != tar["expected"]
    assert index["found"] == "no file"
    assert "softalign curate RECIPE" in tar["fix"] and f"rm -r {folder}" in tar["fix"]
    app(["data", "verify", str(folder), "--store", "elsewhere"], standalone_mode=False)
    assert "2 damaged or missing" in capsys.readouterr().out


def test_the_share_that_may_be_lost_covers_all_damaged_shards(dataset, store):
    for number in range(2):
        flip(Path(dataset.uri, f"shard-{number:06d}.tar"))
    assert dataset.num_shards == 3 and len(verified("test", store).flaws) == 2
    assert "max_corrupt_share" not in verified("test", store).flaws[0].fix, "both may hold all, as far as that is known"
    shutil.copyfile(Path(dataset.uri, "rejected.parquet"), Path(dataset.uri, "shard-000000.parquet"))
    flip(Path(dataset.uri, "shard-000001.tar"))
    first, second = verified("test", store).flaws
    assert first.fix == second.fix and "runtime.max_corrupt_share=0.5" in first.fix, "two files of one shard"


def test_a_truncated_list_and_a_copy_outside_a_store(dataset, store, tmp_path):
    copy = Path(shutil.copytree(dataset.uri, tmp_path / "copy"))
    (copy / "rejected.parquet").write_bytes(b"")
    (flaw,) = verified(str(copy), store).flaws
    assert flaw.found.startswith("0 bytes, ") and "from where this folder was copied" in flaw.fix
    list_file = Path(dataset.uri, "files.json")
    list_file.write_bytes(list_file.read_bytes()[:-40])
    (flaw,) = verified("test", store).flaws
    assert flaw.uri == str(list_file) and "curate RECIPE" in flaw.fix
    flip(copy / "manifest.json", 40)
    with pytest.raises(IntegrityError):
        find_published(str(copy), store)


def test_what_is_in_the_store_counts_not_the_cache(tmp_path, configure):
    store = Store(f"memory://{uuid.uuid4().hex}")
    source = Handover(tmp_path / "handover").add_pictures(4).coco()
    made = curate(configure(source), store, KEY)
    store.fetch(made)  # sound copies are in the cache
    assert verified(made.uri, store).is_sound
    filesystem, path = open_filesystem(f"{made.uri}/shard-000000.tar")
    filesystem.pipe_file(path, b"damaged")
    filesystem.rm(f"{path.rpartition('/')[0]}/rejected.parquet")
    found = [(flaw.uri.rpartition("/")[2], flaw.found[:9]) for flaw in verified(KEY, store).flaws]
    assert found == [("rejected.parquet", "no file"), ("shard-000000.tar", "7 bytes, ")]


def test_encodings_are_verified_with_the_files_they_share(store, tmp_path):
    shard, folder = tmp_path / "made.safetensors", tmp_path / "output"
    shard.write_bytes(b"latents of some images")
    entry = store.add_shared("latents/x", shard)
    folder.mkdir()
    (folder / "latents.json").write_text(json.dumps([{"digests": [], "tensors": [], "file": entry.model_dump()}]))
    (folder / "texts.json").write_text("[]")
    made = store.publish(ENCODED.model_copy(update={"stage_key": KEY}), folder)
    sound = verified(made.uri, store)
    assert sound.is_sound and sound.num_files == 3
    shared = Path(store.uri, entry.path)
    flip(shared)
    (flaw,) = verified(f"{made.uri}/", Store("elsewhere")).flaws
    assert flaw.uri == str(shared) and "what is missing is encoded again" in flaw.fix
    Path(made.uri, "latents.json").unlink()
    (flaw,) = verified(made.uri, store).flaws
    assert (flaw.uri, flaw.found) == (f"{made.uri}/latents.json", "no file")
    with pytest.raises(MissingInputError, match="no published set of encodings"):
        find_published(f"{store.uri}/encode/{'cd' * 32}", store)
