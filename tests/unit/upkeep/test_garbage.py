"""After a clean-up every record still verifies, and what nobody needs is gone."""

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from softalign.artifacts import DatasetManifest
from softalign.errors import IntegrityError
from softalign.processes.locking import exclusive
from softalign.store.store import Store
from softalign.upkeep.garbage import find_garbage
from softalign.upkeep.removing import remove_garbage
from tests.sample_records import ENCODED

OLD = 30 * 86400.0
COUNTS = {"num_samples": 1, "num_captions": 2, "num_val_samples": 0, "total_bytes": 1, "num_shards": 1, "num_seen": 1}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def put(store, name, *, age_s=OLD, data=b"x" * 10):
    path = os.path.join(store.uri, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def age(store, age_s=OLD):
    moment = time.time() - age_s
    for folder, _, names in os.walk(store.uri):
        for name in names:
            os.utime(os.path.join(folder, name), (moment, moment))


def publish(store, key, record=None):
    record = record or DatasetManifest(stage_key=key, name="shapes", **COUNTS)
    folder = store.work_path(record.stage, key) / "out"
    folder.mkdir(parents=True)
    (folder / "data").write_bytes(key.encode())
    for name in ("latents.json", "texts.json"):
        if record.stage == "encode":
            (folder / name).write_text(json.dumps([{"file": {"path": f"encoded/pool/{key}-{name}.safetensors"}}]))
    published = store.publish(record.model_copy(update={"stage_key": key}), folder)
    if record.stage == "encode":
        for name in ("latents.json", "texts.json"):
            shard = f"encoded/pool/{key}-{name}.safetensors"
            put(store, shard)
            put(store, f"encoded/pool/{key}-{name}", data=json.dumps({"file": {"path": shard}}).encode())
    return published


def limit():
    return time.time() - 7 * 86400


def clean(store):
    return {one.place for one in remove_garbage(find_garbage(store, limit()), store, limit())}


GARBAGE = {
    "curate/half/data": "curate/half",
    "train/half/soft_tokens.safetensors": "train/half",
    "curate/.copy.1234/data": "curate/.copy.1234",
    "encoded/pool/unused.safetensors": "encoded/pool/unused.safetensors",
    "encoded/pool/.part.1": "encoded/pool/.part.1",
    ".work/train/left/checkpoints/step-1/state": ".work/train/left",
    ".work/train/requests/left.json": ".work/train/requests/left.json",
    "checkpoints/left/step-1/state": "checkpoints/left",
    ".probe-1234": ".probe-1234",
}
"""A file, and the place it is removed as."""
OTHERS = ("mlflow.db", "mlflow-artifacts/1/a", "recipes/cats.yaml", "leases/x/1.json", "notes.txt", "thing/a/b")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(st.sampled_from(sorted(GARBAGE))),
    young=st.sets(st.sampled_from(sorted(GARBAGE))),
    keys=st.sets(st.sampled_from(["a1", "b2", "c3"]), min_size=1),
)
def test_records_verify_and_only_old_garbage_goes(tmp_path_factory, names, young, keys):
    store = Store(str(tmp_path_factory.mktemp("store")))
    records = [publish(store, key) for key in sorted(keys)] + [publish(store, key, ENCODED) for key in sorted(keys)]
    age(store)
    for name in OTHERS:
        put(store, name)
    for name in names | young:
        put(store, name, age_s=0.0 if name in young else OLD)
    gone = clean(store)
    assert gone >= {GARBAGE[name] for name in names - young}
    assert not [place for place in gone if place not in GARBAGE.values() and not place.startswith(".work/")]
    assert all(os.path.exists(os.path.join(store.uri, name)) for name in {*OTHERS, *young})
    assert not [name for name in names - young if os.path.exists(os.path.join(store.uri, name))]
    for record in records:
        assert store.find(type(record), record.stage_key) == record
        store.fetch(record)
    assert find_garbage(store, limit()) == ()


def test_encodings_that_a_set_lists_stay_and_go_with_it(store):
    record = publish(store, "a1", ENCODED)
    age(store)
    assert not [one for one in find_garbage(store, limit()) if one.place.startswith("encoded/")]
    os.rename(f"{record.uri}/manifest.json", f"{record.uri}/manifest.json.gone")
    assert f"encode/{record.stage_key}" in {one.place for one in find_garbage(store, limit())}
    for name in os.listdir(record.uri):
        os.remove(f"{record.uri}/{name}")
    assert len([one for one in find_garbage(store, limit()) if one.place.startswith("encoded/")]) == 4


def test_a_work_folder_that_is_held_stays(store):
    put(store, ".work/train/busy/checkpoints/step-1/state")
    put(store, "encoded/pool/unused.safetensors")
    put(store, ".work/encode/busy/part")
    with exclusive(store.work_path("train", "busy")), exclusive(store.work_path("encode", "busy")):
        age(store)
        found = find_garbage(store, limit())
        assert ".work/train/busy" in {one.place for one in found}
        assert "encoded/pool/unused.safetensors" not in {one.place for one in found}
        assert remove_garbage(found, store, limit()) == ()
    assert clean(store) >= {".work/train/busy", ".work/encode/busy", "encoded/pool/unused.safetensors"}


def test_what_changes_after_the_listing_stays(store):
    put(store, "curate/half/data")
    found = find_garbage(store, limit())
    put(store, "curate/half/more", age_s=0.0)
    assert remove_garbage(found, store, limit()) == ()
    assert os.path.exists(os.path.join(store.uri, "curate/half/data"))


def test_a_live_lease_keeps_encodings(store):
    put(store, "encoded/pool/unused.safetensors")
    put(store, "leases/train-x/00000001.json", age_s=5.0)
    assert find_garbage(store, limit()) == ()


def test_a_list_that_cannot_be_read_ends_it_before_anything_goes(store):
    record = publish(store, "a1", ENCODED)
    put(store, f"encode/{record.stage_key}/latents.json", data=b"{")
    put(store, "encoded/pool/unused.safetensors")
    with pytest.raises(IntegrityError, match="nothing was removed"):
        find_garbage(store, limit())


@pytest.mark.parametrize("holder", [".work/train/busy", ".work/train/turns/busy"])
def test_what_lies_beside_the_work_of_a_living_run_stays(store, holder):
    beside = [put(store, f".work/train/{kind}/busy.json") for kind in ("requests", "usage")]
    put(store, f"{holder}/state")
    limit = time.time() - 86400
    with exclusive(Path(store.uri) / holder):
        age(store)
        assert remove_garbage(find_garbage(store, limit), store, limit) == ()
    assert all(os.path.isfile(path) for path in [*beside, os.path.join(store.uri, holder, "state")])
    age(store)
    assert len(remove_garbage(find_garbage(store, limit), store, limit)) == 3


def test_a_shared_file_that_a_set_began_to_list_stays(store):
    shard = put(store, "encoded/pool/late-latents.json.safetensors")
    unused = put(store, "encoded/pool/unused.safetensors")
    limit = time.time() - 86400
    found = find_garbage(store, limit)
    folder = store.work_path("encode", "late") / "out"
    folder.mkdir(parents=True)
    for name in ("latents.json", "texts.json"):
        (folder / name).write_text(json.dumps([{"file": {"path": "encoded/pool/late-latents.json.safetensors"}}]))
    store.publish(ENCODED.model_copy(update={"stage_key": "late"}), folder)
    assert [one.place for one in remove_garbage(found, store, limit)] == ["encoded/pool/unused.safetensors"]
    assert os.path.isfile(shard)
    assert not os.path.exists(unused)
