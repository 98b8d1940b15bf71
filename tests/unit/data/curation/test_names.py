"""File names of tables: which can name a file below the image folder, and how the others are shown."""

import os

import pytest

from softalign.data.curation.names import NameRules, flaw_of_name, shown


@pytest.mark.parametrize(
    ("name", "detail"),
    [
        ("../secret.png", "leads out"),
        ("a/../../b.png", "leads out"),
        ("..", "leads out"),
        ("..\\x.png", "leads out"),
        (".", "the image folder itself"),
        ("/etc/passwd", "an absolute path"),
        ("\\x.png", "an absolute path"),
        ("C:/x.png", "an absolute path"),
        ("c:\\x.png", "an absolute path"),
        ("s3://b/k.png", "a URL"),
        ("https://example.org/a.png", "a URL"),
        ("a\0b", "a zero byte"),
    ],
)
def test_names_that_lead_outside_the_image_folder(name, detail):
    flaw = flaw_of_name(name)
    assert flaw.reason == "unsafe_path"
    assert detail in flaw.detail


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (None, "no_name"),
        ("", "no_name"),
        (7, "name_not_text"),
        (b"\xff", "name_not_text"),
        ("\udce9.png", "name_not_text"),
    ],
)
def test_cells_that_are_no_names(name, reason):
    assert flaw_of_name(name).reason == reason


@pytest.mark.parametrize(
    "name", ["a.png", "train/a.png", "a..b.png", "12:30.png", "web/https://a.png", "a::b.png", " ", "~a"]
)
def test_names_inside_the_image_folder(name):
    assert flaw_of_name(name) is None


@pytest.mark.parametrize(
    ("name", "text"),
    [("caf\u00e9", "caf\u00e9"), (b"caf\xe9", "caf\\xe9"), ("half \ud83d", "half \\ud83d"), (7, "7"), (["a"], "['a']")],
)
def test_what_is_no_text_is_shown_with_escapes(name, text):
    assert shown(name) == text


@pytest.mark.parametrize(
    ("images_uri", "cell", "name"),
    [
        ("/data/images", "/data/images/a/b.png", "a/b.png"),
        ("/data/images/", "/data/images//a.png", "a.png"),
        ("/", "/data/a.png", "data/a.png"),
        ("/data/images", "file:///data/images/a.png", "a.png"),
        ("file:///data/images", "/data/images/a.png", "a.png"),
        ("s3://bucket/images", "s3://bucket/images/a.png", "a.png"),
        ("https://host/images", "https://host/images/a%20b.png", "a b.png"),
        ("/data/images", "/data/images-2/a.png", "/data/images-2/a.png"),
        ("/data/images", "/other/a.png", "/other/a.png"),
        ("/data/images", "a.png", "a.png"),
        ("", "/data/a.png", "/data/a.png"),
        ("/data/images", 7, 7),
    ],
)
def test_absolute_paths_below_the_image_folder_become_relative(images_uri, cell, name):
    assert NameRules.of_folder(images_uri).relative(cell) == name


def test_absolute_paths_of_a_relative_folder_and_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    (tmp_path / "link").symlink_to("images")
    monkeypatch.chdir(tmp_path)
    for images_uri, folder in (("images", "images"), ("link", "link"), ("link", "images")):
        assert NameRules.of_folder(images_uri).relative(os.fspath(tmp_path / folder / "a.png")) == "a.png"


def test_an_absolute_path_that_leads_out_again_is_refused():
    cell = NameRules.of_folder("/data/images").relative("/data/images/../secret.png")
    assert flaw_of_name(cell).reason == "unsafe_path"
