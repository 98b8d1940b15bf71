"""What a refresh of some captions costs beside the first curation and encoding: bytes written, samples encoded, time.

``python -m tests.bench.refresh [--images N] [--share 0.01] [--captions both] [--changes both]``: renders JPEG files
with two captions each, curates and encodes them (by a tiny pipeline of SD 1.5's structure: its encodings are small, a
real one's are not), then changes captions of a share of the images, once spread evenly and once in one run of
neighbours, and does it again; all that with captions in the shards' tars and with captions in their indexes alone. All
in one process on the same files, so the ratios are what counts. Exit code 1 if a result differs from curating from
nothing.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Cost:
    """What curating and encoding took."""

    curate_s: float
    encode_s: float
    curate_bytes: int
    encode_bytes: int
    images_encoded: int
    texts_encoded: int
    cpu_s: float


def render(folder, number, side_px):
    """Write JPEG files that compress like photographs, and their table."""
    folder.mkdir(parents=True)
    images, annotations = [], []
    for index in range(number):
        rng = np.random.default_rng(index)
        coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        coarse.resize((side_px, side_px), Image.Resampling.BICUBIC).save(folder / f"{index:06d}.jpg", quality=90)
        images.append({"id": index, "file_name": f"{index:06d}.jpg"})
        annotations += [
            {"image_id": index, "caption": f"photograph {index} of {word}"} for word in ("a day", "a night")
        ]
    path = folder.parent / "captions.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return path


LAYOUTS = {"tars": True, "indexes": False}
"""Where captions lie, as ``curation.captions_in_tars``."""


class Bench:
    """One handover, curated and encoded again and again in one store of a layout."""

    def __init__(self, root, layout, table, model, asked):
        from softalign.config import BackboneConfig, CocoSource, CurationConfig, Runtime
        from softalign.store.store import Store

        self.root, self.store, self.runtime = root / layout, Store(str(root / layout / "store")), Runtime()
        source = CocoSource(annotations_uri=str(table), images_uri=str(root / "images"))
        self.config = CurationConfig(
            name="bench",
            sources=(source,),
            samples_per_shard=asked.samples_per_shard,
            captions_in_tars=LAYOUTS[layout],
        )
        self.backbone = BackboneConfig(family="sd15", model=model, resolution_px=asked.resolution)

    def run(self, config, key, parent_key="", before=None):
        """Return dataset, encoded set and what they cost."""
        from softalign.data.curation.pipeline import curate
        from softalign.data.curation.reuse import Beside
        from softalign.data.encoding.encode import encode
        from softalign.data.encoding.encoders import FrozenEncoders
        from softalign.store.traffic import traffic

        counts = {"latents_of": 0, "text_states_of": 0}
        kept = {name: getattr(FrozenEncoders, name) for name in counts}

        def counting(name):
            def call(self, inputs):
                listed = list(inputs)
                counts[name] += len(listed)
                return kept[name](self, listed)

            return call

        for name in counts:
            setattr(FrozenEncoders, name, counting(name))
        cpu = time.process_time()
        moments, written = [time.perf_counter()], [traffic().written_bytes]
        dataset = curate(config, self.store, key, self.runtime, parent_key, Beside(parent_key) if parent_key else None)
        moments.append(time.perf_counter())
        written.append(traffic().written_bytes)
        encoded = encode(dataset, self.backbone, self.runtime, self.store, f"e-{key}", before=before)
        moments.append(time.perf_counter())
        written.append(traffic().written_bytes)
        for name, call in kept.items():
            setattr(FrozenEncoders, name, call)
        cost = Cost(
            moments[1] - moments[0],
            moments[2] - moments[1],
            written[1] - written[0],
            written[2] - written[1],
            counts["latents_of"],
            counts["text_states_of"],
            time.process_time() - cpu,
        )
        return dataset, encoded, cost

    def changed(self, numbers, name):
        """Return the configuration with one caption of each of these images changed."""
        from softalign.data.curation.changes import CaptionEdit, to_lines

        edits = [
            CaptionEdit(
                source="0-coco",
                file_name=f"{index:06d}.jpg",
                action="change",
                before=f"photograph {index} of a day",
                caption=f"photograph {index} of a morning",
            )
            for index in numbers
        ]
        path = self.root / f"{name}.jsonl"
        path.write_bytes(to_lines(edits))
        return self.config.model_copy(update={"caption_changes": (str(path),)})


def scratch_digest(bench, config, key):
    from softalign.data.curation.pipeline import curate
    from softalign.store.store import Store

    with tempfile.TemporaryDirectory(prefix="softalign-refresh-") as folder:
        return curate(config, Store(folder), key, bench.runtime, "first").digest


def line(name, cost, first):
    total, whole = cost.curate_bytes + cost.encode_bytes, first.curate_bytes + first.encode_bytes
    seconds, all_seconds = cost.curate_s + cost.encode_s, first.curate_s + first.encode_s
    encoded = cost.images_encoded + cost.texts_encoded
    share = encoded / (first.images_encoded + first.texts_encoded)
    return (
        f"{name:>10} | {cost.curate_bytes / 1e6:9.2f} + {cost.encode_bytes / 1e6:9.2f} MB = {total / whole:7.2%} | "
        f"{cost.images_encoded:6d} images, {cost.texts_encoded:6d} texts = {share:7.2%} | "
        f"{cost.curate_s:7.2f} + {cost.encode_s:7.2f} s = {seconds / all_seconds:7.2%} | "
        f"{cost.cpu_s:7.2f} s = {cost.cpu_s / first.cpu_s:7.2%}"
    )


def measure(bench, layout, asked):
    """Print the first run and its refreshes; return whether each is equal to curating from nothing."""
    number = max(1, round(asked.share * asked.images))
    parent, encoded, first = bench.run(bench.config, "first")
    print(
        f"captions in {layout}: {parent.num_samples} images, {parent.num_captions} captions; {number} captions change"
    )
    print(
        "           | written: curate + encode, of the first | encoded, of the first | time: curate + encode | CPU time"
    )
    print(line("first", first, first), flush=True)
    is_equal = True
    cases = {"spread": range(0, asked.images, asked.images // number), "together": range(number)}
    for name in cases if asked.changes == "both" else [asked.changes]:
        config = bench.changed(list(cases[name])[:number], name)
        dataset, _, cost = bench.run(config, name, "first", encoded)
        print(line(name, cost, first), flush=True)
        is_equal = is_equal and dataset.digest == scratch_digest(bench, config, name)
    return is_equal


def main():
    from tests.tiny_pipeline import save_tiny_pipeline

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--side", type=int, default=256, help="of the images, px")
    parser.add_argument("--resolution", type=int, default=256, help="that is encoded, px")
    parser.add_argument("--samples-per-shard", type=int, default=512)
    parser.add_argument("--captions", choices=[*LAYOUTS, "both"], default="both", help="where they lie")
    parser.add_argument("--changes", choices=["spread", "together", "both"], default="both")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="softalign-refresh-") as folder:
        root, is_equal = Path(folder), True
        table, model = render(root / "images", asked.images, asked.side), save_tiny_pipeline(root / "model")
        for layout in LAYOUTS if asked.captions == "both" else [asked.captions]:
            is_equal = measure(Bench(root, layout, table, model, asked), layout, asked) and is_equal
            shutil.rmtree(root / layout)
        print(f"equal to curating from nothing: {is_equal}")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
