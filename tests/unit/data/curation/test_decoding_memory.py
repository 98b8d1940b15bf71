"""What is decoded at once is bounded by bytes; one image above the bound is decoded alone."""

import io
import threading
import time

import pytest
from PIL import Image

from softalign.data.curation import decoding_memory, images
from softalign.data.curation.decoding_memory import BYTES_PER_PIXEL, BYTES_PER_TRANSPARENT_PIXEL, ByteBudget
from softalign.data.curation.images import inspect_image
from softalign.store.read_ahead import map_ahead


@pytest.mark.parametrize(
    ("mode", "total_bytes", "most_at_once"),
    [
        ("RGB", 2 * 40 * 32 * BYTES_PER_PIXEL, 2),
        ("RGBA", 40 * 32 * BYTES_PER_TRANSPARENT_PIXEL, 1),
        ("RGB", 100, 1),
        ("RGB", 1 << 30, 4),
    ],
)
def test_as_many_are_decoded_at_once_as_fit(monkeypatch, mode, total_bytes, most_at_once):
    monkeypatch.setattr(images, "DECODING", ByteBudget(total_bytes))
    buffer, seen, changed, decode, inside = io.BytesIO(), [0], threading.Condition(), images._decode, 0
    Image.new(mode, (40, 32), 7).save(buffer, "PNG")

    def counted(*picture):
        nonlocal inside
        with changed:
            inside += 1
            seen.append(inside)
            changed.notify_all()
            changed.wait_for(lambda: max(seen) >= most_at_once, timeout=5)
        try:
            return decode(*picture)
        finally:
            with changed:
                inside -= 1

    monkeypatch.setattr(images, "_decode", counted)
    assert len(list(map_ahead(inspect_image, [buffer.getvalue()] * 12, 4))) == 12
    assert max(seen) == most_at_once


def test_one_of_several_processes_has_its_part_and_decodes_one_image_at_a_time(monkeypatch):
    budget, at_once, most = ByteBudget(1 << 30), [], []
    monkeypatch.setattr(decoding_memory, "DECODING", budget)
    decoding_memory.share_machine(4)
    assert budget._free_bytes == 1 << 28

    def decode(number):
        with budget.taking(1):
            at_once.append(number)
            time.sleep(0.001)
            most.append(len(at_once))
            at_once.remove(number)

    list(map_ahead(decode, range(20), 4))
    assert max(most) == 1
    assert budget._free_bytes == 1 << 28


def test_what_fails_gives_back_what_it_took():
    budget = ByteBudget(10)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.taking(7):
            raise ZeroDivisionError
    with budget.taking(10):
        pass
