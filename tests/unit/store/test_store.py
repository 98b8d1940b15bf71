"""Stores: published whole or not at all, on a local folder and on an object store without renames."""

import errno
import json
import os
import threading
import uuid
from pathlib import Path

import fsspec
import pytest

from softalign.artifacts import DatasetManifest, FileEntry
from softalign.errors import ConfigError, IntegrityError, MissingInputError, StorageUnavailableError
from softalign.store import files
from softalign.store import store as storage
from softalign.store.files import (
    create_file,
    fetch_verified,
    file_entry,
    read_bytes,
    replacing,
    sha256_of_file,
    verify_file,
    write_atomically,
)
from softalign.store.reaching import reaching
from softalign.store.store import Store


@pytest.fixture(params=["local", "memory"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    return Store(str(tmp_path / "store") if request.param == "local" else f"memory://{uuid.uuid4().hex}/store")


@pytest.fixture
def manifest():
    return DatasetManifest(
        stage_key="key",
        name="test",
        num_samples=1,
        num_captions=1,
        num_val_samples=0,
        num_shards=1,
        total_bytes=1,
        num_seen=1,
    )


@pytest.fixture
def make_folder(tmp_path):
    def make(**contents):
        folder = tmp_path / f"work-{uuid.uuid4().hex}"
        for name, text in contents.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    return make


def everything(store):
    filesystem, root = fsspec.core.url_to_fs(store.uri)
    return {name: filesystem.cat_file(name) for name in filesystem.find(root)} if filesystem.exists(root) else {}


def test_what_is_published_is_found_and_fetched(store, manifest, make_folder):
    assert store.find(DatasetManifest, "key") is None
    published = store.publish(manifest, make_folder(a="1", sub__b="2"))
    assert store.find(DatasetManifest, "key") == published
    assert [entry.path for entry in store.files(published)] == ["a", "sub/b"]
    root = store.fetch(published)
    assert ((root / "a").read_text(), (root / "sub" / "b").read_text()) == ("1", "2")
    assert json.loads(read_bytes(f"{store.prefix('curate', 'key')}/manifest.json"))["digest"] == published.digest


def test_what_is_known_of_a_file_is_published_without_reading_it(store, manifest, make_folder):
    folder = make_folder(a="1", b="2")
    known = file_entry(folder / "a", "a")
    expected = (known, file_entry(folder / "b", "b"))
    (folder / "a").write_text("3")  # damaged since
    published = store.publish(manifest, folder, known=[known])
    assert store.files(published) == expected
    with pytest.raises(IntegrityError):
        store.fetch(published)


def test_a_place_is_not_content(manifest, make_folder, tmp_path):
    records = [Store(str(tmp_path / name)).publish(manifest, make_folder(a="1")) for name in "xy"]
    records.append(Store("memory://place/z").publish(manifest, make_folder(a="1")))
    assert len({record.digest for record in records}) == 1
    assert len({record.uri for record in records}) == 3


def test_an_unfinished_file_is_not_published(store, manifest, make_folder):
    published = store.publish(manifest, make_folder(**{"a": "1", ".b.partial": "2", "sub__.c": "3"}))
    assert [entry.path for entry in store.files(published)] == ["a"]
    assert not [name for name in everything(store) if name.rpartition("/")[2].startswith(".")]


def test_publishing_consumes_the_folder_and_repeats_without_effect(store, manifest, make_folder):
    first = make_folder(a="1")
    published = store.publish(manifest, first)
    assert not first.exists()
    before = everything(store)
    assert store.publish(manifest, make_folder(a="1")) == published
    assert everything(store) == before


def test_other_content_is_refused_and_nothing_overwritten(store, manifest, make_folder):
    store.publish(manifest, make_folder(a="1"))
    before, folder = everything(store), make_folder(a="2")
    with pytest.raises(IntegrityError, match="nothing was overwritten"):
        store.publish(manifest, folder)
    assert everything(store) == before
    assert (folder / "a").read_text() == "2", "the refused attempt is kept"


def test_a_prefix_without_its_record_does_not_exist_and_is_replaced(store, manifest, make_folder):
    filesystem, prefix = fsspec.core.url_to_fs(store.prefix("curate", "key"))
    filesystem.makedirs(prefix, exist_ok=True)
    filesystem.pipe_file(f"{prefix}/a", b"left by a dead attempt")
    assert store.find(DatasetManifest, "key") is None
    published = store.publish(manifest, make_folder(a="1"))
    assert (store.fetch(published) / "a").read_text() == "1"


def test_only_the_files_asked_for_are_fetched(store, manifest, make_folder):
    published = store.publish(manifest, make_folder(shard_0="0", shard_1="1", other="2"))
    root = store.fetch(published, under="shard_1")
    assert (root / "shard_1").read_text() == "1"
    assert (root / "other").exists() == store.is_local


@pytest.mark.parametrize("damage", [b"", b"X", b"12"])
def test_damaged_files_are_refused(store, manifest, make_folder, damage):
    published = store.publish(manifest, make_folder(a="1"))
    filesystem, path = fsspec.core.url_to_fs(f"{published.uri}/a")
    filesystem.pipe_file(path, damage)
    with pytest.raises(IntegrityError, match="not what was published") as caught:
        store.fetch(published)
    assert caught.value.where == f"{published.uri}/a"


def test_missing_files_and_a_changed_list_are_refused(store, manifest, make_folder):
    published = store.publish(manifest, make_folder(a="1", b="2"))
    filesystem, base = fsspec.core.url_to_fs(published.uri)
    filesystem.rm_file(f"{base}/a")
    with pytest.raises(IntegrityError, match="no file"):
        store.fetch(published)
    for listing in (b"[]", b"not json"):
        filesystem.pipe_file(f"{base}/files.json", listing)
        with pytest.raises(IntegrityError, match="file list"):
            store.fetch(published)
    filesystem.rm_file(f"{base}/files.json")
    with pytest.raises(IntegrityError, match="file list"):
        store.fetch(published)


def test_a_damaged_record_is_refused(store, manifest, make_folder):
    store.publish(manifest, make_folder(a="1"))
    filesystem, path = fsspec.core.url_to_fs(f"{store.prefix('curate', 'key')}/manifest.json")
    text = filesystem.cat_file(path)
    for damaged in (text.replace(b'"num_samples": 1', b'"num_samples": 2'), text[:-30], b"", b"{}"):
        filesystem.pipe_file(path, damaged)
        with pytest.raises(IntegrityError, match=r"manifest\.json"):
            store.find(DatasetManifest, "key")


def test_a_record_under_another_key_is_refused(store, manifest, make_folder):
    store.publish(manifest, make_folder(a="1"))
    filesystem, root = fsspec.core.url_to_fs(store.uri)
    filesystem.makedirs(f"{root}/curate/other", exist_ok=True)
    filesystem.cp_file(f"{root}/curate/key/manifest.json", f"{root}/curate/other/manifest.json")
    with pytest.raises(IntegrityError, match="another stage key"):
        store.find(DatasetManifest, "other")


@pytest.mark.parametrize("contents", [("1", "1"), ("1", "2")], ids=["same", "other"])
def test_two_writers_at_once(tmp_path, monkeypatch, manifest, make_folder, contents):
    """In a folder: fsspec's memory shows a file before it is whole, which no object store does."""
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    store = Store(str(tmp_path / "store"))
    folders, outcomes = [make_folder(a=text) for text in contents], [None, None]
    barrier = threading.Barrier(2)

    def write(index):
        barrier.wait()
        try:
            outcomes[index] = store.publish(manifest, folders[index])
        except IntegrityError as error:
            outcomes[index] = error

    threads = [threading.Thread(target=write, args=(index,)) for index in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    winner = store.find(DatasetManifest, "key")
    text = (store.fetch(winner) / "a").read_text()
    assert [isinstance(outcome, IntegrityError) for outcome in outcomes] == [text != own for own in contents]


@pytest.mark.parametrize("content", ["1", "2"])
def test_a_writer_that_loses_between_check_and_publication(store, manifest, make_folder, monkeypatch, content):
    """The other writer publishes after this one found nothing there."""
    rival, found = make_folder(a="1"), store.find

    def find_after_rival(*args):
        monkeypatch.setattr(store, "find", found)
        Store(store.uri).publish(manifest, rival)
        return None

    monkeypatch.setattr(store, "find", find_after_rival)
    folder = make_folder(a=content)
    if content == "1":
        assert store.publish(manifest, folder).files_digest == found(DatasetManifest, "key").files_digest
    else:
        with pytest.raises(IntegrityError, match="nothing was overwritten"):
            store.publish(manifest, folder)
    assert (store.fetch(found(DatasetManifest, "key")) / "a").read_text() == "1"


def test_an_upload_that_arrives_short_is_not_published(manifest, make_folder, monkeypatch):
    store = Store(f"memory://{uuid.uuid4().hex}")
    filesystem = fsspec.filesystem("memory")
    monkeypatch.setattr(type(filesystem), "put_file", lambda self, local, path, **_: self.pipe_file(path, b""))
    with pytest.raises(IntegrityError, match="arrived"):
        store.publish(manifest, make_folder(a="1"))
    assert store.find(DatasetManifest, "key") is None


def test_a_missing_bucket_is_named_and_the_work_kept(manifest, make_folder, monkeypatch):
    def no_bucket(self, *args, **kwargs):
        raise FileNotFoundError("The specified bucket does not exist")

    store, folder = Store("memory://no-such-bucket/store"), make_folder(a="1")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "put_file", no_bucket)
    with pytest.raises(MissingInputError, match=r"(?s)store does not exist.*bucket does not exist") as caught:
        store.publish(manifest, folder)
    assert caught.value.where == "memory://no-such-bucket/store"
    assert (folder / "a").read_text() == "1"


def test_a_failed_precondition_means_that_the_file_exists(monkeypatch):
    uri = f"memory://{uuid.uuid4().hex}/note"
    assert create_file(uri, b"1")

    def precondition(self, *args, **kwargs):
        raise OSError(22, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", precondition)
    assert not create_file(uri, b"2")
    with pytest.raises(StorageUnavailableError):
        create_file(f"{uri}-other", b"2")


def test_copies_are_cached_and_healed(manifest, make_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "cache"))
    store = Store(f"memory://{uuid.uuid4().hex}")
    published = store.publish(manifest, make_folder(a="1"))
    copy = store.fetch(published) / "a"
    copy.write_text("2")
    assert (store.fetch(published) / "a").read_text() == "1", "a damaged copy is fetched again"
    filesystem = fsspec.filesystem("memory")
    monkeypatch.setattr(type(filesystem), "get_file", None)
    assert (store.fetch(published) / "a").read_text() == "1", "a sound copy is not"
    assert [entry.name for entry in copy.parent.iterdir()] == ["a"]


def test_work_continues_in_the_same_place(store):
    path = store.work_path("train", "key")
    assert path.is_dir()
    assert Store(store.uri).work_path("train", "key") == path
    assert Store(store.uri + "2").work_path("train", "key") != path


def test_shared_files_are_named_by_content(store, tmp_path):
    def add(text):
        path = tmp_path / "shard.safetensors"
        path.write_text(text)
        return store.add_shared("latents", path)

    first, second = add("1"), add("2")
    assert add("1") == first != second
    assert store.fetch_shared(first).read_text() == "1"
    assert store.shared_sizes("latents") == {Path(e.path).name: 1 for e in (first, second)}
    assert store.shared_sizes("nothing") == {}
    missing = first.model_copy(update={"path": "encoded/latents/none", "sha256": "0" * 64})
    with pytest.raises(IntegrityError, match="encoded again"):
        store.fetch_shared(missing)


def test_notes_are_created_once(store):
    assert store.create_shard_index("latents/b.json", b"1") == b"1"
    assert store.create_shard_index("latents/b.json", b"2") == b"1"
    store.create_shard_index("latents/a.json", b"3")
    assert list(store.read_shard_indexes("latents")) == [b"3", b"1"]
    assert list(store.read_shard_indexes("none")) == []


def test_a_folder_on_another_filesystem_is_copied(manifest, make_folder, tmp_path, monkeypatch):
    copies = []

    def copy(parent, path):
        copies.append(path)
        target = parent / ".copy"
        path.rename(target)
        return target

    monkeypatch.setattr(storage, "on_filesystem_of", copy)
    published = Store(str(tmp_path / "s")).publish(manifest, make_folder(a="1"))
    assert copies
    assert (Path(published.uri) / "a").read_text() == "1"


def test_the_stores_place_is_a_file(tmp_path, manifest, make_folder):
    (tmp_path / "file").write_text("x")
    store = Store(str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="taken by a file"):
        store.publish(manifest, make_folder(a="1"))
    with pytest.raises(ConfigError, match="taken by a file"):
        store.work_path("curate", "key")


def test_a_kind_of_uri_nobody_knows():
    with pytest.raises(ConfigError, match="cannot be opened"):
        read_bytes("nosuch://bucket/file")


def client_error(name, **attributes):
    return type(name, (Exception,), {"__module__": "botocore.exceptions", **attributes})("from the client")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (FileNotFoundError("x"), MissingInputError),
        (IsADirectoryError("x"), MissingInputError),
        (OSError(36, "File name too long"), MissingInputError),
        (OSError(40, "Too many levels of symbolic links"), MissingInputError),
        (PermissionError("x"), ConfigError),
        (client_error("ClientResponseError", status=403), ConfigError),
        (client_error("ClientResponseError", status=500), StorageUnavailableError),
        (NotADirectoryError("x"), ConfigError),
        (TimeoutError("x"), StorageUnavailableError),
        (OSError("SlowDown"), StorageUnavailableError),
        (client_error("EndpointConnectionError"), StorageUnavailableError),
        (client_error("NoCredentialsError"), ConfigError),
        (KeyError("a defect of ours"), KeyError),
    ],
)
def test_what_filesystems_raise_becomes_our_errors(raised, expected):
    with pytest.raises(expected) as caught, reaching("s3://bucket/key"):
        raise raised
    assert getattr(caught.value, "where", "s3://bucket/key") == "s3://bucket/key"


@pytest.mark.parametrize(
    ("raised", "error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/scratch/x"),
            StorageUnavailableError,
            "no room left to write",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), StorageUnavailableError, "within your quota"),
        (OSError(errno.EROFS, "Read-only file system", "/ro/x"), ConfigError, "This place cannot be written"),
        (PermissionError("Forbidden"), ConfigError, "this machine's clock"),
    ],
)
def test_a_full_disk_a_read_only_one_and_a_wrong_clock_are_not_taken_for_a_store_that_is_away(raised, error, said):
    with pytest.raises(error, match=said) as caught, reaching("s3://bucket/key"):
        raise raised
    assert "did not answer" not in str(caught.value)
    assert raised.filename is None or raised.filename in str(caught.value)


def test_only_network_faults_are_retriable():
    assert StorageUnavailableError.is_retriable
    assert not (MissingInputError.is_retriable or ConfigError.is_retriable or IntegrityError.is_retriable)


def test_writing_atomically_leaves_nothing_behind(tmp_path):
    path = tmp_path / "new" / "file"
    for text in (b"1", b"2"):
        write_atomically(path, text)
        assert path.read_bytes() == text
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_creating_a_local_file_once(tmp_path):
    assert create_file(str(tmp_path / "a" / "b"), b"1")
    assert not create_file(str(tmp_path / "a" / "b"), b"2")
    assert (tmp_path / "a" / "b").read_bytes() == b"1"


def test_of_two_that_create_a_local_file_at_once_one_does(tmp_path, monkeypatch):
    path = tmp_path / "a"
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "exists", lambda *_: bool(path.write_bytes(b"1")) and False)  # right after the look
        assert not create_file(str(path), b"2")
    assert path.read_bytes() == b"1"
    assert list(tmp_path.iterdir()) == [path]


def test_verification_of_one_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3_000_000)
    entry = file_entry(path, "a")
    assert (entry.size_bytes, entry.sha256) == (3_000_000, sha256_of_file(path))
    verify_file(path, entry, where="here")
    fetch_verified(entry, str(path), path)
    wrong = FileEntry(path="a", size_bytes=3_000_000, sha256="0" * 64)
    with pytest.raises(IntegrityError, match="mend it"):
        verify_file(path, wrong, where="here", fix="mend it")


def test_file_uris_are_local_paths(tmp_path, manifest, make_folder):
    published = Store(f"file://{tmp_path}/s").publish(manifest, make_folder(a="1"))
    assert published.uri == str(tmp_path / "s" / "curate" / "key")


def test_what_replaces_a_file_is_whole_synced_and_as_others_may_read_it(tmp_path, monkeypatch):
    path, synced = tmp_path / "made" / "a.txt", []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with replacing(path) as made:
        made.write_text("new")
        assert made.parent == path.parent and made.name.startswith(".a.txt.")
        assert not path.exists()
    assert [name == str(path.parent) for name in synced] == [False, True]  # the file, then its new name
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()
    with replacing(path, is_synced=False) as made:
        made.write_text("newer")
    assert (path.read_text(), len(synced), len(list(path.parent.iterdir()))) == ("newer", 2, 1)


def test_a_folder_is_replaced_whole_and_its_files_are_synced(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with replacing(tmp_path / "folder") as made:
        (made / "sub").mkdir(parents=True)
        (made / "sub" / "a").write_text("1")
    assert [Path(name).name for name in synced[:2]] == ["sub", "a"]
    assert (tmp_path / "folder" / "sub" / "a").read_text() == "1"
    with pytest.raises(OSError, match="not empty"), replacing(tmp_path / "folder") as made:
        made.mkdir()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (tmp_path / "folder" / "sub" / "a").read_text() == "1"
    with replacing(tmp_path / "folder", drops_folder=True) as made:
        made.mkdir()
        (made / "b").write_text("2")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_was_not_finished_is_removed_and_the_old_stays(tmp_path, is_folder, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(type(error)), replacing(path) as made:
        if is_folder:
            made.mkdir()
            (made / "b").write_text("half")
        else:
            made.write_text("half")
        raise error
    assert ([found.name for found in tmp_path.iterdir()], path.read_text()) == (["a"], "old")


def umask():
    current = os.umask(0)
    os.umask(current)
    return current


@pytest.mark.skipif(os.name == "nt", reason="needs Unix permissions")
def test_work_and_caches_are_closed_to_others(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTALIGN_CACHE", str(tmp_path / "home" / "cache"))
    before = os.umask(0o022)
    try:
        local, remote = Store(str(tmp_path / "store")), Store("memory://work-of-a-test")
        for store in (local, remote):
            store.work_path("train", "k")
    finally:
        os.umask(before)
    assert (tmp_path / "store" / ".work").stat().st_mode & 0o077 == 0
    assert (tmp_path / "home" / "cache").stat().st_mode & 0o077 == 0
    assert (tmp_path / "store").stat().st_mode & 0o055 == 0o055  # what is published is the user's to close


def test_a_record_of_many_files_is_listed_once(store, manifest, make_folder, monkeypatch):
    """Whoever opens a dataset's shards one after another reads the list of all of them once, not once a shard."""
    names = [f"shard-{index:06d}.parquet" for index in range(5)]
    record = store.publish(manifest, make_folder(**{name: name for name in names}))
    reads = []
    monkeypatch.setattr(storage, "read_bytes", lambda uri: reads.append(uri) or read_bytes(uri))
    assert [store.fetch_file(record, name).read_text() for name in names] == names
    assert len(reads) == 1
    with pytest.raises(IntegrityError, match="not among the files"):
        store.fetch_file(record, "shard-000009.parquet")
