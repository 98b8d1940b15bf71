"""What texts have in common is stored once, and every bit comes back."""

import math
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from softalign.data.encoding.common_parts import (
    GRAIN,
    Box,
    find_boxes,
    from_header,
    put_together,
    read_row,
    to_header,
    to_tensors,
)

LENGTH, CLIP_LENGTH, WIDTH, CLIP_WIDTH = 12, 7, 48, 16
NAME = "prompt_embeds"


def drawn(num_texts, seed=0):
    return torch.randn(num_texts, LENGTH, WIDTH, generator=torch.Generator().manual_seed(seed)).half()


def like_sd15(num_texts):
    states = drawn(num_texts)
    states[:, 0] = states[0, 0]
    return states


def like_sd3(num_texts):
    states = like_sd15(num_texts)
    states[:, :CLIP_LENGTH, CLIP_WIDTH:] = 0.0
    return states


def like_sd3_without_t5(num_texts):
    states = like_sd3(num_texts)
    states[:, CLIP_LENGTH:] = 0.0
    return states


def odd_bits(num_texts):
    """Values that compare as equal and are not, or as unequal and are."""
    states = like_sd3(num_texts)
    states[:, 0, 0] = math.nan
    states[1, 2, CLIP_WIDTH] = -0.0
    states[:, 1] = math.inf
    return states


def write(path, rows):
    boxes = find_boxes(list(rows))
    save_file(to_tensors(NAME, list(rows), boxes), path, to_header({NAME: boxes}))
    return boxes


def row_of(shard, index):
    boxes = from_header(shard.metadata(), NAME)
    return put_together(boxes, read_row(lambda name, row: shard.get_slice(name)[row], boxes, NAME, index))


def bits(tensor):
    return tensor.view(torch.int16)


@pytest.mark.parametrize("num_texts", [1, 2, 9])
@pytest.mark.parametrize("like", [drawn, like_sd15, like_sd3, like_sd3_without_t5, odd_bits])
def test_every_bit_comes_back(tmp_path, like, num_texts):
    rows = like(max(num_texts, 2))[:num_texts]
    boxes = write(tmp_path / "shard.safetensors", rows)
    with safe_open(tmp_path / "shard.safetensors", framework="pt") as shard:
        for index, expected in enumerate(rows):
            found = row_of(shard, index)
            assert found.dtype == torch.float16
            assert torch.equal(bits(found), bits(expected))
    covered = torch.zeros(LENGTH, WIDTH)
    for box in boxes:
        box.of(covered).add_(1)
    assert torch.equal(covered, torch.ones(LENGTH, WIDTH)), "the boxes cover the states, and do not overlap"


def test_what_is_known_to_be_common_is_found():
    assert find_boxes(list(like_sd15(9))) == (Box(0, 1, 0, WIDTH, True), Box(1, LENGTH, 0, WIDTH, False))
    first = Box(0, 1, 0, WIDTH, True)
    clip = Box(1, CLIP_LENGTH, 0, CLIP_WIDTH, False), Box(1, CLIP_LENGTH, CLIP_WIDTH, WIDTH, True)
    assert find_boxes(list(like_sd3(9))) == (first, *clip, Box(CLIP_LENGTH, LENGTH, 0, WIDTH, False))
    assert find_boxes(list(like_sd3_without_t5(9))) == (first, *clip, Box(CLIP_LENGTH, LENGTH, 0, WIDTH, True))
    assert find_boxes(list(drawn(1))) == (Box(0, LENGTH, 0, WIDTH, True),)


def test_a_difference_of_one_bit_is_one():
    rows = list(like_sd3(3))
    bits(rows[1])[2, CLIP_WIDTH + GRAIN] ^= 1
    found = [(box.left, box.right) for box in find_boxes(rows) if box.first == 2]
    assert found == [(0, CLIP_WIDTH + 2 * GRAIN), (CLIP_WIDTH + 2 * GRAIN, WIDTH)]


def test_columns_that_agree_by_chance_make_no_boxes():
    rows = list(drawn(2))
    rows[1][3, GRAIN + 1 : WIDTH - 1] = rows[0][3, GRAIN + 1 : WIDTH - 1]
    rows[1][3, 0] = rows[0][3, 0]
    assert find_boxes(rows) == (Box(0, LENGTH, 0, WIDTH, False),)


def test_a_shard_that_holds_all_of_it_for_each_text_is_read_as_before(tmp_path):
    rows = drawn(3)
    save_file({NAME: rows}, tmp_path / "old.safetensors")
    with safe_open(tmp_path / "old.safetensors", framework="pt") as shard:
        assert all(torch.equal(row_of(shard, index), rows[index]) for index in range(3))


def test_the_same_texts_make_the_same_bytes(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / name, like_sd3(5))
    contents = [(tmp_path / name).read_bytes() for name in ("a", "b", "c")]
    assert all(one == other for one, other in pairwise(contents))
