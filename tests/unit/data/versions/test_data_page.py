"""The page of one dataset: funnel, reasons, sources, duplicates, samples; hostile text is text."""

import io
import json
import re
from base64 import b64decode
from pathlib import Path

import pytest
from PIL import Image

from softalign.cli.app import app
from softalign.data.versions.pages.data_page import _funnel, _sources, _Tally, _twins, render_dataset
from softalign.data.versions.reporting import REPORT_FILENAME, keep_report, report_uri
from softalign.errors import IntegrityError
from softalign.store.files import list_files
from tests.unit.data.versions.conftest import HOSTILE, assert_fetches_nothing


@pytest.fixture
def dataset(handover, publish, make_picture):
    handover.add_pictures(5)
    handover.add("copy.png", ["the first again"], data=(handover.images / "000.png").read_bytes())
    handover.add("near.png", ["nearly the first"], make_picture(0), compress_level=1)
    handover.add("small.png", ["a small one"], make_picture(50, 20, 20))
    handover.add("half.png", ["half a file"], data=(handover.images / "001.png").read_bytes()[:400])
    handover.add("gone.png", ["gone"])
    handover.add("../outside.png", ["outside"])
    handover.add("mute.png", [], make_picture(53))
    handover.add("some.png", ["fine words", "x"], make_picture(54))
    handover.add(f"gone{HOSTILE}", [f"hostile {HOSTILE}"])
    handover.add(HOSTILE.replace("/", ""), [f"hostile {HOSTILE}"], make_picture(55))
    return publish(handover.coco(), "a" * 64)


def test_the_funnel_adds_up(dataset):
    steps = list(_funnel(dataset.manifest, dataset.rejections()))
    assert {step.label: step.num_lost for step in steps} == {
        "entries of the table that cannot be used": 1,
        "no caption that can be used": 1,
        "image not readable": 2,
        "image not decodable": 1,
        "filtered": 1,
        "duplicates": 2,
    }
    assert steps[-1].num_left == dataset.manifest.num_samples


def test_sources_and_duplicates(dataset):
    tally = _Tally(dataset.manifest.num_samples, ())
    for one in dataset.samples():
        tally.add(one)
    (row,) = _sources(tally, dataset.rejections(), {})
    assert (row.source, row.num_images, row.num_images_lost, row.num_captions_lost) == ("0-coco", 7, 8, 1)
    first = next(dataset.samples()).row
    twins = _twins(dataset.rejections())
    assert [name for name, _ in twins.pop(first.image_digest[:16])] == ["copy.png", "near.png"] and not twins


def test_the_page_holds_all_and_fetches_nothing(dataset):
    page = render_dataset(dataset)
    assert page == render_dataset(dataset), "the same bytes"
    assert_fetches_nothing(page)
    for text in ("corrupt_image", "../outside.png", "copy.png", "same bytes as", "another view of 4", "0-coco"):
        assert text in page
    assert "<q><bdi>x</bdi></q>" in page, "what a rejected caption said"
    assert page.count("data:image/webp") == dataset.manifest.num_samples + 1


def test_the_page_lies_beside_the_record_and_no_digest_covers_it(dataset, store):
    keep_report(dataset.manifest, store)
    path = Path(report_uri(dataset.manifest, store))
    assert path == Path(dataset.manifest.uri) / REPORT_FILENAME and path.read_text() == render_dataset(dataset)
    assert REPORT_FILENAME not in {entry.path for entry in store.files(dataset.manifest)}
    keep_report(dataset.manifest, store)
    assert [e.path for e in list_files(Path(dataset.manifest.uri))].count(REPORT_FILENAME) == 1


def test_an_image_with_odd_metadata_is_shown_upright_as_it_is_trained_on(handover, publish, make_picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    handover.add("turned.jpg", ["a turned one"], make_picture(1, 80, 40), exif=exif)
    handover.add("clear.png", ["a clear one"], make_picture(2).convert("RGBA"), exif=b"Exif\0\0odd")
    page = render_dataset(publish(handover.coco(), "c" * 64))
    pictures = [b64decode(text) for text in re.findall(r"data:image/webp;base64,([^\"]+)", page)]
    assert [Image.open(io.BytesIO(data)).size for data in pictures] == [(40, 80), (48, 40)]


def test_a_damaged_dataset_has_no_page(dataset, store):
    Path(dataset.manifest.uri, "rejected.parquet").write_bytes(b"damaged")
    with pytest.raises(IntegrityError):
        keep_report(dataset.manifest, store)
    assert not Path(report_uri(dataset.manifest, store)).exists()


def test_a_dataset_without_a_loss_has_a_page_too(handover, publish):
    assert "Nothing." in render_dataset(publish(handover.add_pictures(2).coco(), "b" * 64))


def test_the_command(dataset, store, tmp_path, capsys):
    out = tmp_path / "page.html"
    app(["data", "report", "test", "--store", store.uri, "--out", str(out), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["digest"] == dataset.manifest.digest
    assert out.read_text(encoding="utf-8") == render_dataset(dataset)
