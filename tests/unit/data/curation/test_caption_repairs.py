"""Captions are mended where it is certain what was meant, and what was mended is told."""

import time

import pytest

from softalign.config import FilterConfig
from softalign.data.curation.caption_repairs import REPAIRS, repaired
from softalign.data.curation.filters import filter_captions
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.samples import ListedSample


@pytest.mark.parametrize(
    ("raw", "meant", "names"),
    [
        ("a cafÃ© on a rainy day", "a café on a rainy day", {"repaired_mojibake"}),
        ("itâ€™s a dog", "it’s a dog", {"repaired_mojibake"}),
        ("Tom &amp; Jerry &lt;b&gt;poster&lt;/b&gt;", "Tom & Jerry poster", {"repaired_html"}),
        ("fish &amp;amp; chips", "fish & chips", {"repaired_html"}),
        ("<p class='x'>a dog<br/>on a mat</p>", "a dog on a mat", {"repaired_html"}),
        ("a&nbsp;dog &#128054; &#x1F436;", "a dog 🐶 🐶", {"repaired_html"}),
        ("\ufeffa horse in a field", "a horse in a field", {"repaired_invisible"}),
        ("\u202egnirts desrever\u202c", "gnirts desrever", {"repaired_invisible"}),
        ("a\u200b re\u00add bus", "a red bus", {"repaired_invisible"}),
        ("cafÃ© &amp; bar\u200b", "café & bar", {*REPAIRS}),
    ],
)
def test_what_was_meant_is_found(raw, meant, names):
    assert (repaired(raw)[0], set(repaired(raw)[1])) == (meant, names)
    assert repaired(meant) == (meant, ())


@pytest.mark.parametrize(
    "text",
    [
        "a red circle",
        "AT&T and R&D; fish & chips",
        "I <3 dogs, 2 < 3 and 5 > 4",
        "<person> holds a cup",
        "SÃO PAULO É GRANDE",
        "مرحبا بك",
        "می\u200cخواهم",
        "👩\u200d🚀 on the moon",
        "ein weißer Hund – „Bello“",
        "日本語の説明",
    ],
)
def test_what_is_meant_so_stays(text):
    assert repaired(text) == (text, ())


def test_white_space_is_no_repair():
    assert repaired(" a  red\n\tbus ") == ("a red bus", ())


def test_long_texts_take_no_time():
    for text in ("<a " * 300_000, "&" * 900_000, "<" * 19_000, "&amp;" * 3_900, "Ã©" * 9_900):
        started = time.process_time()
        repaired(text)
        assert time.process_time() - started < 5


def verdict(*captions, **options):
    listed = ListedSample("s", "a.png", ImageFolder("/images"), captions)
    return filter_captions(listed, FilterConfig(captions=options))


def test_repairs_are_listed_beside_what_is_left_out():
    found = verdict("fish &amp; chips", "a bus", "\ufeffa bus", "\u200b\u200b\u200b")
    assert found.captions == ("fish & chips", "a bus")
    assert [(entry.caption_index, entry.reason) for entry in found.rejections] == [
        (0, "repaired_html"),
        (2, "caption_repeated"),
        (3, "caption_empty"),
    ]


def test_nothing_is_mended_if_so_asked():
    assert verdict("fish &amp; chips\ufeff", repair=False).captions == ("fish &amp; chips\ufeff",)
