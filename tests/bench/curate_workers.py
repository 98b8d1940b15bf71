"""What worker processes gain curation: JPEG files, in the stage's own process, with one worker, and with several.

``python -m tests.bench.curate_workers [--images N] [--workers 2] [--rounds 3] [--core-each]``: the same files in turn,
each kind once a round, medians of the rounds. A worker reads and writes in threads, so one alone keeps more than a core
busy where it may; with ``--core-each`` as many workers have as many cores, this process among them, so the ratio says
what another worker on another core brings. Workers are started on some other files before the clock, and what that took
is said. Processor time says what a busy machine hides: that of this process is what cannot be shared. Exit code 1 if a
digest differs; the times decide nothing.
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
    """Seconds of starting, of one curation, and of the processors of this process and of all in it."""

    start_s: float
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
    """Return the processor seconds of this process, and of it with its living children."""
    import psutil

    def of(process):
        spent = process.cpu_times()
        return spent.user + spent.system

    me = psutil.Process()
    return of(me), of(me) + sum(map(of, me.children()))


@contextmanager
def on_cores(number):
    """Keep this process, and those that it starts, on some cores; 0: on all that it has."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[: number or None])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def curated(config, num_workers, folder, other):
    """Curate with some workers (0: in this process), after another curation; return the digest and what it cost."""
    from softalign.data.curation import pipeline
    from softalign.engines.pool import ProcessPool
    from softalign.engines.work import InProcess
    from softalign.store.store import Store

    engine = ProcessPool(num_workers) if num_workers else InProcess()

    @contextmanager
    def opened(_runtime):
        yield engine

    with tempfile.TemporaryDirectory(dir=folder) as root, patch.object(pipeline, "open_engine", opened):
        began = time.perf_counter()
        pipeline.curate(other, Store(root), "other")
        start_s, (own, everyone), started = time.perf_counter() - began, cpu(), time.perf_counter()
        digest = pipeline.curate(config, Store(root), "k").digest
        wall_s = time.perf_counter() - started
        own_after, everyone_after = cpu()
    if num_workers:
        engine.stop()
    return digest, Cost(start_s, wall_s, own_after - own, everyone_after - everyone)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core-each", action="store_true", help="as many workers have as many cores")
    asked = parser.parse_args()
    from softalign.config import CocoSource, CurationConfig

    kinds = (0, 1, asked.workers)
    costs, digests = {kind: [] for kind in kinds}, set()
    with tempfile.TemporaryDirectory(prefix="softalign-workers-") as folder:
        root = Path(folder)
        table = render_photographs(root / "images", asked.images)
        num_bytes = sum(path.stat().st_size for path in root.glob("images/*.jpg")) / asked.images
        tables = (table, render_photographs(root / "others" / "images", 16 * asked.workers))
        config, other = (
            CurationConfig(
                name="bench",
                sources=(CocoSource(annotations_uri=str(path), images_uri=str(path.parent / "images")),),
                samples_per_shard=512,
            )
            for path in tables
        )
        for _ in range(asked.rounds):
            for kind in kinds:
                with on_cores(max(1, kind) if asked.core_each else 0):
                    digest, cost = curated(config, kind, root, other)
                digests.add(digest)
                costs[kind].append(cost)
    if asked.core_each:
        print("as many cores as workers; in process on one")
    print(f"{asked.images} JPEG files of 640 x 480 px, {num_bytes / 1000:.0f} kB; medians of {asked.rounds} rounds")
    wall = {kind: statistics.median(cost.wall_s for cost in costs[kind]) for kind in kinds}
    for kind in kinds:
        name = f"{kind} worker{'s' if kind > 1 else ''}" if kind else "in process"
        own = statistics.median(cost.own_cpu_s for cost in costs[kind]) / asked.images * 1000
        everyone = statistics.median(cost.cpu_s for cost in costs[kind]) / asked.images * 1000
        print(
            f"{name:>21} | {wall[kind]:6.2f} s | {asked.images / wall[kind]:6.1f} images/s | "
            f"processors {everyone:5.2f} ms an image, {own:5.2f} of them in this process | "
            f"started in {statistics.median(cost.start_s for cost in costs[kind]):.1f} s"
        )
    to_one, to_none = (wall[kind] / wall[asked.workers] for kind in (1, 0))
    print(
        f"{asked.workers} workers to 1: {to_one:.2f}; to in process: {to_none:.2f}; equal digests: {len(digests) == 1}"
    )
    print(f"load at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    return 0 if len(digests) == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
