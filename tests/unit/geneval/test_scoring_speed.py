"""What scoring the official set costs one core."""

import random
import time

import numpy as np
import pytest

from softalign.evaluation.suites import score_directory
from softalign.geneval.detections import Detection, write_detections
from softalign.geneval.layout import image_filename, write_metadata
from softalign.geneval.prompts import official_prompts
from softalign.sampling.sampling import png_bytes

LIMIT_S = 2.0


@pytest.mark.slow
def test_the_official_set_is_scored_within_two_seconds_of_one_core(tmp_path):
    rng, prompts = random.Random(0), official_prompts()
    write_metadata(tmp_path, prompts)
    png = png_bytes(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))
    found = {}
    for index, prompt in enumerate(prompts):
        for image in range(4):
            name = image_filename(index, image)
            (tmp_path / name).write_bytes(png)
            found[name] = [
                Detection(class_name=clause.class_name, score=rng.random(), box=(0, 0, 9, 9), color="red")
                for clause in prompt.include
                for _ in range(rng.randint(0, 4))
            ]
    write_detections(tmp_path / "detections.jsonl", found)
    begun_s = time.process_time()
    summary = score_directory(tmp_path, tmp_path / "detections.jsonl", tmp_path / "out")
    assert (summary.num_images, summary.missing) == (2212, ())
    taken_s = time.process_time() - begun_s
    print(f"{taken_s:.2f} s")
    assert taken_s < LIMIT_S
