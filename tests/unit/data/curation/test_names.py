"""File names of tables: which can name a file below the image folder, and how the others are shown."""

import pytest

from softalign.data.curation.names import flaw_of_name, shown


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
