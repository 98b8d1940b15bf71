"""What differs between two datasets, by kind and reason, and the page of it."""

import json

import pytest

from softalign.cli.app import app
from softalign.data.versions.diff import compare_datasets
from softalign.data.versions.distributions import script_of
from softalign.data.versions.finding import find_dataset
from softalign.data.versions.pages.charts import histogram
from softalign.data.versions.pages.diff_page import render_diff
from softalign.data.versions.pages.rendering import shown
from softalign.errors import ConfigError, IntegrityError, MissingInputError
from tests.unit.data.versions.conftest import HOSTILE, Handover, assert_fetches_nothing

KEY_A, KEY_B = "a" * 64, "ab" * 32


@pytest.fixture
def versions(tmp_path, publish, make_picture):
    """Return two datasets with every kind of change between them."""
    first = Handover(tmp_path / "handover").add_pictures(8)
    first.add("gone.png", ["will go"], make_picture(20))
    first.add("small.png", ["grows up"], make_picture(21, 20, 20))
    before = publish(first.coco(), KEY_A)
    second = Handover(tmp_path / "handover")
    second.rows = [(name, list(captions)) for name, captions in first.rows if name != "gone.png"]
    second.rows[0][1][0] = "told in other words"
    second.rows[1][1].append("one caption more")
    second.rows[2][1].pop()
    second.rows[3][1][1] = "no"
    second.rows[4][1][:] = [""]
    make_picture(5, 60, 60).save(first.images / "005.png")
    make_picture(21).save(first.images / "small.png")
    second.add(f"new{HOSTILE.replace('/', '')}", [f"hostile {HOSTILE}"], make_picture(30))
    return before, publish(second.coco(), KEY_B)


def test_every_change_has_its_kind_and_reason(versions):
    diff = compare_datasets(*versions)
    assert dict(((kind, reason), count) for kind, reason, count in diff.counts("images")) == {
        ("added", "new"): 1,
        ("added", "was too_small"): 1,
        ("changed", "replaced under the same name"): 1,
        ("removed", "no_caption_left"): 1,
        ("removed", "not listed any more"): 1,
    }
    assert [(c.kind, c.reason, c.before, c.after) for c in diff.captions] == [
        ("changed", "reworded", "picture number 0", "told in other words"),
        ("added", "new", "", "one caption more"),
        ("removed", "not listed any more", "another view of 2", ""),
        ("removed", "caption_too_short", "another view of 3", ""),
    ]
    before, after = (one.manifest for one in versions)
    assert diff.num_images_kept == before.num_samples - 3
    assert diff.num_captions_kept == before.num_captions - 2 - 1 - 3
    assert diff.num_captions_kept + 1 + 1 + 1 + 1 == after.num_captions
    assert not diff.is_child and not diff.is_same
    lengths = next(one for one in diff.distributions if one.title == "Caption length")
    assert (sum(lengths.before), sum(lengths.after)) == (before.num_captions, after.num_captions)


def test_two_sources_with_one_file_name_are_two(publish, tmp_path, make_picture):
    first, second = (Handover(tmp_path / name) for name in ("first", "second"))
    for number in range(3):
        first.add(f"{number}.png", [f"number {number}"], make_picture(number))
        second.add(f"{number}.png", [f"another {number}", f"more of {number}"], make_picture(100 + number))
    before = publish(first.coco(), KEY_A, more=[second.coco()])
    (first.images / "0.png").unlink()
    second.rows[1][1][1] = "no"
    first.rows[1][1].append("no")
    del second.rows[0]
    diff = compare_datasets(before, publish(first.coco(), KEY_B, more=[second.coco()]))
    assert [(one.kind, one.source, one.file_name, one.reason) for one in diff.images] == [
        ("removed", "0-coco", "0.png", "missing_image"),
        ("removed", "1-coco", "0.png", "not listed any more"),
    ]
    assert [(one.source, one.before, one.reason) for one in diff.captions] == [
        ("1-coco", "more of 1", "caption_too_short")
    ]


def test_what_a_copy_said_is_gone_for_the_reason_of_the_copy(publish, tmp_path):
    handover = Handover(tmp_path / "handover").add_pictures(4)
    texts = {"denied.png": "a word", "gone.png": "of a file that goes", "listed.png": "not any more"}
    for number, (name, caption) in enumerate(texts.items()):
        data = (handover.images / f"{number:03d}.png").read_bytes()
        handover.add(name, [caption], data=data)
    before = publish(handover.coco(), KEY_A)
    handover.rows[4][1][0], handover.rows[0][1][1] = "no", "no"
    (handover.images / "gone.png").unlink()
    del handover.rows[6]
    diff = compare_datasets(before, publish(handover.coco(), KEY_B))
    assert [(one.before, one.reason) for one in diff.captions] == [
        ("another view of 0", "caption_too_short"),
        ("a word", "caption_too_short"),
        ("of a file that goes", "missing_image"),
        ("not any more", "not listed any more"),
    ]
    assert not diff.images


def test_a_dataset_equals_itself(versions):
    diff = compare_datasets(versions[0], versions[0])
    assert diff.is_same and diff.to_text().endswith("no difference")
    assert "Both hold the same" in render_diff(diff, versions[0], versions[0])


def test_the_split_counts(publish, tmp_path):
    source = Handover(tmp_path / "handover").add_pictures(12).coco()
    before, after = publish(source, KEY_A, val_share=0.0), publish(source, KEY_B, val_share=0.5)
    diff = compare_datasets(before, after)
    assert diff.num_moved == after.manifest.num_val_samples > 0 and not diff.is_same


def test_the_page_holds_all_and_fetches_nothing(versions):
    diff = compare_datasets(*versions)
    page = render_diff(diff, *versions)
    assert page == render_diff(diff, *versions), "the same bytes"
    assert_fetches_nothing(page)
    for text in ("told in other words", "one caption more", "no_caption_left", "gone.png", "\\u202e"):
        assert text in page
    assert page.count("data:image/webp") == len(diff.images) + len(diff.captions)


def test_a_damaged_image_is_not_shown(versions):
    diff = compare_datasets(*versions)
    for tar in (versions[1].manifest.uri, versions[0].manifest.uri):
        with open(f"{tar}/shard-000000.tar", "r+b") as file:
            file.write(b"\0" * 4096)
    with pytest.raises(IntegrityError, match="not what was published"):
        render_diff(diff, *versions)


def test_datasets_are_found_by_place_key_digest_and_name(versions, store, monkeypatch, tmp_path):
    before, after = (one.manifest for one in versions)
    for reference in (after.uri, f"{after.uri}/manifest.json", f"{after.uri}/", KEY_B, after.digest[:12], "test"):
        assert find_dataset(reference, store) == after, reference
    assert find_dataset("test~1", store) == before
    monkeypatch.chdir(tmp_path / "store" / "curate")
    assert find_dataset(KEY_A, store) == before
    with pytest.raises(MissingInputError, match=f"test \\({KEY_B[:12]}\\)"):
        find_dataset("test~2", store)
    with pytest.raises(MissingInputError, match="no published dataset"):
        find_dataset(str(tmp_path), store)
    (tmp_path / "elsewhere" / "test").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert find_dataset("test", store) == after, "a folder of this name that holds no dataset is not what is meant"
    (tmp_path / "store" / "curate" / KEY_B).rename(tmp_path / "store" / "curate" / "other")
    assert find_dataset("test", store) == before, "a record under another key is passed over"


def test_digits_of_several_are_refused(publish, tmp_path, store):
    source = Handover(tmp_path / "handover").add_pictures(3).coco()
    publish(source, "abcdef1"), publish(source, "abcdef2")
    with pytest.raises(ConfigError, match="Several datasets"):
        find_dataset("abcdef", store)


def test_the_command(versions, store, tmp_path, capsys):
    out = tmp_path / "diff.html"
    app(["data", "diff", KEY_A, "test", "--store", store.uri, "--out", str(out), "--json"], standalone_mode=False)
    said = json.loads(capsys.readouterr().out)
    assert said["page"] == str(out) and out.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert {change["kind"] for change in said["images"]} == {"added", "removed", "changed"}
    app(["data", "diff", KEY_A, KEY_B, "--store", store.uri], standalone_mode=False)
    assert "captions changed: 1 (reworded)" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="cannot be written"):
        app(["data", "diff", KEY_A, KEY_B, "--store", store.uri, "--out", str(tmp_path)], standalone_mode=False)


@pytest.mark.parametrize(
    ("caption", "script"),
    [("a cat", "Latin"), ("кот и cat ещё", "Cyrillic"), ("猫が", "CJK"), ("12 !", "no letters"), ("é̈", "Latin")],
)
def test_scripts(caption, script):
    assert script_of(caption) == script


def test_text_that_cannot_be_seen_is_escaped_and_long_text_cut():
    assert shown("a\x00b\u202ec") == "a\\x00b\\u202ec"
    assert shown("é" * 1000).endswith("(1,000 characters)") and len(shown("é" * 1000)) < 500


def test_a_histogram_leaves_out_empty_ends_and_escapes():
    chart = histogram("T<i>", ("0", "10", "<20>", "30"), (0, 1, 3, 0))
    assert chart.count("<rect") == 2 and "T&lt;i&gt;" in chart and "&lt;20&gt;" in chart
    assert histogram("empty", ("0",), (0,)).count("<rect") == 0
