"""What worker processes gain curation: JPEG files, in the stage's own process, with one worker, and with several.

``python -m tests.bench.curate_workers [--images N] [--workers 2] [--rounds 3]``: the same files in turn, each kind once
a round, medians of the rounds; starting the workers is in their times. Processor seconds say what a busy machine hides:
those of this process are what cannot be shared. Exit code 1 if a digest differs; the times decide nothing.
"""

import argparse
import io
import os
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from tests.bench.refresh import render


@dataclass(frozen=True)
class Cost:
    """Seconds of one curation, and of the processors of this process and of all."""

    wall_s: float
    own_cpu_s: float
    cpu_s: float


def render_photographs(folder, number):
    """Write JPEG files of 640 x 480 px and about 160 kB, as COCO's photographs are, and their table."""
    table = render(folder, number, 8)
    noise = np.random.default_rng(0).integers(-30, 30, (480, 640, 3))
    for path in sorted(folder.glob("*.jpg")):
        with Image.open(io.BytesIO(path.read_bytes())) as small:
            pixels = np.asarray(small.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.int64)
        shift = int(path.stem)
        noisy = np.clip(pixels + np.roll(noise, shift, axis=1), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(path, quality=88)
    return table


def cpu():
    spent = os.times()
    return spent.user + spent.system, spent.user + spent.system + spent.children_user + spent.children_system


def curated(config, num_workers, folder):
    """Curate with some workers (0: in this process); return the digest and what it cost."""
    from softalign.data.curation import pipeline
    from softalign.engines.pool import ProcessPool
    from softalign.engines.work import InProcess
    from softalign.store.store import Store

    @contextmanager
    def opened(_runtime):
        if not num_workers:
            yield InProcess()
            return
        pool = ProcessPool(num_workers)
        try:
            yield pool
        finally:
            pool.stop()

    with tempfile.TemporaryDirectory(dir=folder) as root, patch.object(pipeline, "open_engine", opened):
        (own, everyone), started = cpu(), time.perf_counter()
        digest = pipeline.curate(config, Store(root), "k").digest
        wall_s = time.perf_counter() - started
        own_after, everyone_after = cpu()
    return digest, Cost(wall_s, own_after - own, everyone_after - everyone)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    from softalign.config import CocoSource, CurationConfig

    kinds = (0, 1, asked.workers)
    costs, digests = {kind: [] for kind in kinds}, set()
    with tempfile.TemporaryDirectory(prefix="softalign-workers-") as folder:
        root = Path(folder)
        table = render_photographs(root / "images", asked.images)
        num_bytes = sum(path.stat().st_size for path in root.glob("images/*.jpg")) / asked.images
        source = CocoSource(annotations_uri=str(table), images_uri=str(root / "images"))
        config = CurationConfig(name="bench", sources=(source,), samples_per_shard=512)
        for _ in range(asked.rounds):
            for kind in kinds:
                digest, cost = curated(config, kind, root)
                digests.add(digest)
                costs[kind].append(cost)
    print(f"{asked.images} JPEG files of 640 x 480 px, {num_bytes / 1000:.0f} kB; medians of {asked.rounds} rounds")
    wall = {kind: statistics.median(cost.wall_s for cost in costs[kind]) for kind in kinds}
    for kind in kinds:
        name = f"{kind} worker{'s' if kind > 1 else ''}" if kind else "in process, 4 threads"
        own = statistics.median(cost.own_cpu_s for cost in costs[kind]) / asked.images * 1000
        everyone = statistics.median(cost.cpu_s for cost in costs[kind]) / asked.images * 1000
        print(
            f"{name:>21} | {wall[kind]:6.2f} s | {asked.images / wall[kind]:6.1f} images/s | "
            f"processors {everyone:5.2f} ms an image, {own:5.2f} of them in this process"
        )
    to_one, to_none = (wall[kind] / wall[asked.workers] for kind in (1, 0))
    print(
        f"{asked.workers} workers to 1: {to_one:.2f}; to in process: {to_none:.2f}; equal digests: {len(digests) == 1}"
    )
    print(f"load at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
