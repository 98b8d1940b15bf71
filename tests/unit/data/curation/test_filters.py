"""Every filter rejects what it names, and nothing else."""

from typing import get_args

import pytest

from softalign.artifacts import DatasetManifest, ReasonCount
from softalign.artifacts.record import MAX_RECORD_BYTES
from softalign.config import FilterConfig
from softalign.data.curation.caption_filters import CAPTION_FILTERS
from softalign.data.curation.filters import IMAGE_FILTERS, filter_captions, image_rejection
from softalign.data.curation.image_folder import ImageFolder
from softalign.data.curation.rejections import REPAIRS, Reason
from softalign.data.curation.samples import ListedSample, Sample


def listed(*captions):
    return ListedSample("s", "a.png", ImageFolder("/images"), captions)


def sample(width_px=64, height_px=64):
    return Sample("s", "a.png", ("x",), b"", "png", "d", 0, width_px, height_px)


def reasons(*captions, **filters):
    verdict = filter_captions(listed(*captions), FilterConfig(**filters))
    return verdict.captions, [(r.caption_index, r.reason) for r in verdict.rejections]


def test_good_captions_pass_with_white_space_collapsed():
    assert reasons("a  red\n circle ", "a blue square") == (("a red circle", "a blue square"), [])


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("", "caption_empty"),
        (" \t\n", "caption_empty"),
        ("ab", "caption_too_short"),
        ("x" * 100_000, "caption_too_long"),
        (None, "caption_not_text"),
        (7, "caption_not_text"),
        (["a red circle"], "caption_not_text"),
        ("a \ud800 circle", "caption_not_text"),
        (b"caf\xe9", "caption_not_text"),
        ("a cat\0 on a mat", "caption_not_text"),
        ("\x1b[31mred\x1b[0m bus", "caption_not_text"),
        ("\u200b\u200b\u200b\ufeff", "caption_empty"),
        ("a red circle", "caption_repeated"),
        ("a red  circle ", "caption_repeated"),
    ],
)
def test_a_bad_caption_drops_that_caption_only(caption, reason):
    assert reasons("a red circle", caption) == (("a red circle",), [(1, reason)])


@pytest.mark.parametrize("caption", ["\u0645\u0631\u062d\u0628\u0627 \u0628\u0643", "\U0001f600", "a\u200d\u2019b"])
def test_what_can_be_seen_is_text(caption):
    assert reasons(caption, min_caption_chars=1) == ((caption,), [])


def test_limits_are_inclusive():
    filters = {"min_caption_chars": 3, "max_caption_chars": 5}
    assert reasons("abc", "abcde", **filters) == (("abc", "abcde"), [])
    assert reasons("abc", "abcdef", **filters)[1] == [(1, "caption_too_long")]


def test_an_image_without_a_caption_left_is_rejected_itself():
    assert reasons("", "ab") == ((), [(0, "caption_empty"), (1, "caption_too_short"), (-1, "no_caption_left")])
    assert reasons() == ((), [(-1, "no_caption")])


def test_a_long_caption_is_not_copied_into_its_rejection():
    (rejection, _) = filter_captions(listed("x" * 100_000), FilterConfig()).rejections
    assert rejection.detail == "100000 characters"


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((64, 64), None),
        ((32, 32), None),
        ((31, 64), "too_small"),
        ((64, 31), "too_small"),
        ((192, 64), None),
        ((193, 64), "aspect_ratio"),
        ((64, 193), "aspect_ratio"),
    ],
)
def test_image_filters(size, reason):
    found = image_rejection(sample(*size), FilterConfig(min_side_px=32, max_aspect_ratio=3.0))
    assert (found.reason if found else None) == reason


def test_every_filter_is_named_as_its_function():
    for name, function in (*IMAGE_FILTERS.items(), *CAPTION_FILTERS.items()):
        assert function.__name__ == name


def test_a_manifest_with_every_reason_fits_a_record():
    entries = tuple(ReasonCount(reason=reason, count=10**9) for reason in get_args(Reason))
    numbers = dict.fromkeys(("num_samples", "num_captions", "num_val_samples", "num_shards", "num_seen"), 10**9)
    manifest = DatasetManifest(
        stage_key="f" * 64,
        name="n" * 63,
        total_bytes=10**15,
        num_merged_captions=10**9,
        rejected=tuple(entry for entry in entries if entry.reason not in REPAIRS),
        repaired=tuple(entry for entry in entries if entry.reason in REPAIRS),
        files_digest="f" * 64,
        **numbers,
    )
    assert len(manifest.to_json()) < MAX_RECORD_BYTES
