"""What is no caption is left out; what a recipe does not want as well, and only then."""

import pytest
from pydantic import ValidationError

from softalign.config import FilterConfig
from softalign.data.curation.caption_filters import script_of
from softalign.data.curation.filters import filter_captions
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.repeated_texts import OnManyImages, mark_repeated_texts
from softalign.data.curation.samples import HeldImage, ListedSample
from softalign.data.curation.shards import read_rejections, write_rejections


def listed(*captions, name="a.png"):
    return ListedSample("s", name, ImageFolder("/images"), captions)


def reasons(*captions, **options):
    found = filter_captions(listed(*captions), FilterConfig(captions=options))
    return [(entry.caption_index, entry.reason) for entry in found.rejections if entry.caption_index >= 0]


def reason(caption, **options):
    return next((name for _, name in reasons(caption, **options)), None)


NON_CAPTIONS = [
    ("nan", "caption_placeholder"),
    ("None", "caption_placeholder"),
    ("NULL", "caption_placeholder"),
    ("N/A", "caption_placeholder"),
    ("...........", "caption_no_words"),
    ("--- !!! ???", "caption_no_words"),
    ("IMG_20190412_0031.jpg", "caption_file_name"),
    ("photos/2019/holiday-1.JPEG", "caption_file_name"),
    ("DSC00231", "caption_file_name"),
    ("Screenshot_2020-01-01", "caption_file_name"),
    ("https://example.org/p/1?utm=2", "caption_url"),
    ("www.example.org", "caption_url"),
]


@pytest.mark.parametrize(("caption", "expected"), NON_CAPTIONS)
def test_what_is_no_caption_is_left_out(caption, expected):
    assert reason(caption) == expected
    assert reason(caption, drop_non_captions=False) is None


@pytest.mark.parametrize(
    "caption",
    [
        "none of the dogs is brown",
        "a nan with her grandchild",
        "a sign that says https://example.org",
        "the icon of a file a.png",
        "image of a dog",
        "photo 3",
        "7",
        "😀😀😀",
        "犬",
        "a stock photo © 2020",
    ],
)
def test_what_is_one_stays(caption):
    assert filter_captions(listed(caption), FilterConfig(min_caption_chars=1)).captions == (caption,)


@pytest.mark.parametrize(
    "caption",
    [
        "Stock photo of a dog",
        "a dog © 2020 Jane",
        "a dog, all rights reserved",
        "Buy now: a dog",
        "a dog | Shutterstock",
        "Photo by Jane",
        "royalty-free dog",
    ],
)
def test_boilerplate_is_left_out_if_asked(caption):
    assert reason(caption, drop_boilerplate=True) == "caption_boilerplate"
    assert reason(caption) is None


@pytest.mark.parametrize("caption", ["a photo of livestock", "a dog in front of a shop", "a picture of a bystander"])
def test_captions_with_like_words_are_no_boilerplate(caption):
    assert reason(caption, drop_boilerplate=True) is None


@pytest.mark.parametrize(
    ("caption", "scripts", "is_kept"),
    [
        ("a red bus", ("latin",), True),
        ("a bowl of ラーメン on a table", ("latin",), True),
        ("красный автобус", ("latin",), False),
        ("красный автобус", ("latin", "cyrillic"), True),
        ("ラーメン a", ("latin",), False),
        ("日本の犬です", ("chinese", "japanese"), True),
        ("한국어 설명", ("korean",), True),
        ("مرحبا بك", ("arabic",), True),
        ("123 😀", ("latin",), True),
        ("ein weißer Hund", (), True),
    ],
)
def test_scripts(caption, scripts, is_kept):
    assert (reason(caption, scripts=scripts) is None) == is_kept


def test_a_letters_script_is_unicodes():
    letters = {
        "a": "latin",
        "é": "latin",
        "ж": "cyrillic",
        "λ": "greek",
        "犬": "chinese",
        "が": "japanese",
        "ก": "thai",
    }
    assert {char: script_of(char) for char in letters} == letters
    assert script_of("Ⴀ") == "other"


@pytest.mark.parametrize(
    ("options", "captions", "expected"),
    [
        ({"deny": ["cat"]}, ["a Cat sits", "they concatenate"], [(0, "caption_denied")]),
        ({"deny": [r"\d{4}"]}, ["year 2020", "year 20"], [(0, "caption_denied")]),
        ({"deny": ["red bus"]}, ["a red bus", "a bus, red"], [(0, "caption_denied")]),
        ({"allow": ["dog", "^cats?$"]}, ["a dog", "cats", "a cat"], [(2, "caption_not_allowed")]),
        ({"allow": ["dog"], "deny": ["hot dog"]}, ["a hot dog", "a dog"], [(0, "caption_denied")]),
    ],
)
def test_lists_of_words_and_patterns(options, captions, expected):
    assert reasons(*captions, **options) == expected


@pytest.mark.parametrize("pattern", ["(", "", "  "])
def test_a_pattern_that_is_none_is_refused_with_the_recipe(pattern):
    with pytest.raises(ValidationError, match=r"no regular expression|match every caption"):
        FilterConfig(captions={"deny": [pattern]})


def test_near_duplicate_captions_of_an_image():
    captions = (
        "a dog on a mat",
        "A dog on the mat.",
        "a dog on a red mat",
        "two dogs on a mat",
        "a dog on a mat there",
    )
    assert reasons(*captions) == []
    assert reasons(*captions, max_similarity=1.0) == [(1, "caption_near_duplicate")]
    assert reasons(*captions, max_similarity=0.5) == [(1, "caption_near_duplicate"), (4, "caption_near_duplicate")]


def test_texts_of_too_many_images_are_left_out_wherever_they_are():
    table = [listed("Image", f"dog {n}", "image ", name=f"{n}.png") for n in range(3)] + [listed("two", "a &amp; b")]
    table += [listed("TWO", "A & B", None, 7, name="other.png")]
    marked = list(mark_repeated_texts(lambda: table, FilterConfig(captions={"max_images_per_text": 2})))
    assert [sample.captions[0] for sample in marked[:3]] == [OnManyImages(2)] * 3
    assert [sample.captions for sample in marked[3:]] == [sample.captions for sample in table[3:]]
    found = filter_captions(marked[0], FilterConfig())
    assert found.captions == ("dog 0",)
    assert [(entry.caption_index, entry.reason, entry.detail, entry.caption) for entry in found.rejections] == [
        (0, "caption_on_many_images", "more than 2", "Image"),
        (2, "caption_on_many_images", "more than 2", "image "),
    ]
    fewer = list(mark_repeated_texts(lambda: table, FilterConfig(captions={"max_images_per_text": 1})))
    assert fewer[3].captions == (OnManyImages(1),) * 2
    assert list(mark_repeated_texts(lambda: table, FilterConfig())) == table


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("x" * 2000, "x" * 200),
        ("half \ud83d", "half \\ud83d"),
        (b"caf\xe9", "caf\\xe9"),
        (7, "7"),
        ("a\x00b", "a\x00b"),
    ],
    ids=["long", "surrogate", "bytes", "number", "control"],
)
def test_what_a_rejected_caption_said_is_kept_as_valid_text(raw, shown, tmp_path):
    [caption, image] = filter_captions(listed(raw), FilterConfig()).rejections
    assert (caption.caption, image.caption) == (shown, "")
    write_rejections(tmp_path / "r.parquet", [caption])
    assert list(read_rejections(tmp_path / "r.parquet")) == [caption]


def test_a_mended_caption_is_listed_as_it_was():
    [repaired] = filter_captions(listed("a dog &amp; a cat"), FilterConfig()).rejections
    assert (repaired.reason, repaired.caption) == ("repaired_html", "a dog &amp; a cat")


def test_copies_of_an_image_are_one_image_that_a_text_is_of():
    def held(name, data, *captions):
        return ListedSample("0-a", name, HeldImage(data), captions)

    copies = [held(f"{number}.png", b"the same", "one text") for number in range(3)]
    table = [*copies, held("a.png", b"first", "on three"), held("b.png", b"second", "On three")]
    table += [held("c.png", b"x" * 300, "on three", "and more"), held("d.png", b"y" * 300, "on two")]
    config = FilterConfig(captions={"max_images_per_text": 2}, max_file_bytes=200)
    marked = {one.filename: one.captions for one in mark_repeated_texts(lambda: iter(table), config)}
    assert [marked[f"{number}.png"] for number in range(3)] == [("one text",)] * 3
    assert marked["a.png"] == marked["b.png"] == (OnManyImages(2),)
    assert marked["c.png"] == (OnManyImages(2), "and more"), "one that cannot be read is an image too"
    kept = config.model_copy(update={"drop_exact_duplicates": False})
    assert next(mark_repeated_texts(lambda: iter(table), kept)).captions == (OnManyImages(2),)
