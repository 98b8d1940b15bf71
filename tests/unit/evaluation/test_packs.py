"""Images in packs: the same bytes out as in, the same packs of the same images, and nothing lost with a machine."""

import json
import random
import tarfile
import uuid

import fsspec
import pytest

from softalign.config import EvalConfig
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from softalign.evaluation import pack_copies
from softalign.evaluation import packs as packing
from softalign.evaluation.pack_copies import PackCopies
from softalign.evaluation.packs import ArmImages, packs_of, write_packs
from softalign.evaluation.unpacking import unpack_arm
from softalign.geneval.layout import read_folders, write_metadata
from softalign.shapes.suite import build_suite
from softalign.store.store import Store
from tests.recorded_arms import publish_arm

PROMPTS = tuple(build_suite()[::15])
NUM_EACH = 3


@pytest.fixture
def images(tmp_path):
    root = tmp_path / "layout"
    write_metadata(root, PROMPTS)
    rng = random.Random(0)
    for name in names():
        (root / name).write_bytes(rng.randbytes(rng.randrange(1, 3000)))
    return root


def names():
    return [f"{prompt:05d}/samples/{image:04d}.png" for prompt in range(len(PROMPTS)) for image in range(NUM_EACH)]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(packing, "IMAGES_PER_PACK", 8)  # two prompts a pack


def copies_of(store, root, folder):
    (folder / "work").mkdir(exist_ok=True)
    return PackCopies(store, "k", root, packs_of(len(PROMPTS), NUM_EACH), folder / "work")


def test_every_file_is_in_one_pack(few):
    made = packs_of(len(PROMPTS), NUM_EACH)
    assert len(made) == len(PROMPTS) // 2
    assert sorted(name for pack in made for name in pack.filenames if name.endswith(".png")) == names()
    assert packs_of(3, 1000)[2].filenames[0] == "00002/metadata.jsonl"


def test_what_goes_in_comes_out(few, images, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_packs(images, packs_of(len(PROMPTS), NUM_EACH), tmp_path / folder)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    packed = ArmImages(tmp_path / "one")
    assert {name: packed.read(name) for name in names()} == {name: (images / name).read_bytes() for name in names()}
    assert packed.folders() == read_folders(images)
    assert packed.unpack(tmp_path / "out") == len(names())
    assert contents(tmp_path / "out") == contents(images)
    with tarfile.open(tmp_path / "one" / "images-00001.tar") as archive:  # any tar program reads them
        assert archive.extractfile("00002/samples/0001.png").read() == (images / "00002/samples/0001.png").read_bytes()
    with pytest.raises(MissingInputError):
        packed.read("99999/samples/0000.png")


def test_arms_of_earlier_versions_are_read_from_their_files(images, tmp_path):
    (tmp_path / "arm").mkdir()
    images.rename(tmp_path / "arm" / "images")
    old = ArmImages(tmp_path / "arm")
    assert old.read(names()[4]) == (tmp_path / "arm/images" / names()[4]).read_bytes()
    assert len(old.folders()) == len(PROMPTS)
    assert old.unpack(tmp_path / "out") == len(names())
    assert contents(tmp_path / "out") == contents(tmp_path / "arm/images")


def test_an_index_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "images.json").write_text('{"a": 1}')
    with pytest.raises(IntegrityError, match="index"):
        ArmImages(tmp_path)


@pytest.mark.parametrize(
    ("name", "pack", "offset", "size"),
    [
        ("../../evil/metadata.jsonl", "images-00000.tar", 0, 5),
        ("00000/samples/0000.png", "../secret", 0, 5),
        ("00000/samples/0000.png", "images-00000.tar", 3, 500),
        ("00000/samples/0000.png", "images-00000.tar", 50, 1),
        ("00000/samples/0000.png", "images-00000.tar", -1, 1),
        ("00000/samples/0000.png", "images-00000.tar", 0, -1),
    ],
)
def test_an_index_reaches_nothing_but_its_packs(tmp_path, name, pack, offset, size):
    arm = tmp_path / "arm"
    arm.mkdir()
    (arm / "images-00000.tar").write_bytes(b"owned")
    (tmp_path / "secret").write_bytes(b"secret")
    (arm / "images.json").write_text(json.dumps({name: {"pack": pack, "offset_bytes": offset, "size_bytes": size}}))
    with pytest.raises(IntegrityError):
        ArmImages(arm).unpack(tmp_path / "a" / "b")
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.parent not in (arm, tmp_path)] == []


def test_a_file_outside_the_layout_is_not_read(tmp_path):
    (tmp_path / "arm" / "images").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(IntegrityError, match="name"):
        ArmImages(tmp_path / "arm").read("../../secret")


def test_a_fresh_machine_goes_on_from_the_packs_that_are_there(few, images, tmp_path):
    store, last = Store(f"memory://{uuid.uuid4().hex}"), packs_of(len(PROMPTS), NUM_EACH)[-1]
    (images / last.filenames[-1]).unlink()  # the last pack is not whole
    copies = copies_of(store, images, tmp_path)
    for _ in range(len(PROMPTS)):
        copies.offer()
        copies.finish()
    fresh = tmp_path / "fresh"
    copies_of(store, fresh, tmp_path).fetch()
    assert contents(fresh) == {name: data for name, data in contents(images).items() if name not in last.filenames}

    copies.remove()
    again = tmp_path / "again"
    copies_of(store, again, tmp_path).fetch()
    assert not again.exists()
    assert list((tmp_path / "work").iterdir()) == []


def test_a_copy_that_failed_is_sent_again_and_a_stop_sends_what_is_whole(few, images, tmp_path, monkeypatch):
    store = Store(f"memory://{uuid.uuid4().hex}")
    copies, real, calls = copies_of(store, images, tmp_path), pack_copies.open_filesystem, []

    def flaky(uri):
        calls.append(uri)
        if len(calls) == 1:
            raise OSError("reset")
        return real(uri)

    monkeypatch.setattr(pack_copies, "open_filesystem", flaky)
    copies.offer()
    copies.finish()
    copies_of(store, tmp_path / "fresh", tmp_path).fetch()
    assert contents(tmp_path / "fresh") == contents(images)


def test_a_copy_that_was_cut_off_is_made_again(few, images, tmp_path, caplog):
    store = Store(f"memory://{uuid.uuid4().hex}")
    copies = copies_of(store, images, tmp_path)
    copies.offer()
    copies.finish()
    filesystem, path = fsspec.core.url_to_fs(f"{store.uri}/checkpoints/k/images-00000.tar")
    filesystem.pipe_file(path, filesystem.cat_file(path)[:700])
    copies_of(store, tmp_path / "fresh", tmp_path).fetch()
    assert "made again" in caplog.text


def test_an_arm_is_unpacked_for_other_programs(tmp_path):
    store = Store(str(tmp_path / "store"))
    config = EvalConfig(suite="shapes", images_per_prompt=2, guidance_scale=1.0, num_bootstrap=100)
    report = publish_arm("base", None, PROMPTS, config, store)
    assert unpack_arm(report.uri, tmp_path / "out") == report.num_images
    assert (tmp_path / "out" / "detections.jsonl").is_file()
    assert len(read_folders(tmp_path / "out")) == len(PROMPTS)
    with pytest.raises(ConfigError, match="not empty"):
        unpack_arm(report.uri, tmp_path / "out")
    with pytest.raises(MissingInputError, match="No arm is published"):
        unpack_arm(f"{store.uri}/evaluate/none", tmp_path / "other")
