"""Peak memory of curating 10,000 and 100,000 small images: from a folder, a table of paths, and a table of images.

``python -m tests.bench.curate_memory [--images 10000 100000] [--sources stored folder paths]``: JPEG files of 64 px,
no two alike, a caption each. Every curation is a forked process whose peak resident memory is read at its end. Exit
code 1: a larger dataset took more than a tenth above the smallest.
"""

import argparse
import io
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from softalign.config import CurationConfig, FolderSource, ParquetSource
from softalign.data.curation.pipeline import curate
from softalign.store.store import Store

BOUND = 1.1
SIDE_PX = 64
ROWS_A_GROUP = 1000


def jpeg(number):
    """Return a file like no other number's."""
    coarse = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def caption(number):
    """Return a sentence of usual length."""
    return f"a picture of coloured spots on a wall, which is number {number} of very many"


def make_stored(folder, number):
    """Write a Parquet table that holds the images."""
    path = folder / "images.parquet"
    schema = pa.schema({"file_name": pa.binary(), "caption": pa.string()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, number, ROWS_A_GROUP):
            numbers = range(start, min(start + ROWS_A_GROUP, number))
            writer.write_table(pa.table([[jpeg(n) for n in numbers], [caption(n) for n in numbers]], schema=schema))
    return ParquetSource(table_uri=str(path), images_uri=str(folder))


def make_files(folder, number, *, with_texts):
    """Write the images as files, a thousand in a folder."""
    images = folder / "images"
    for index in range(number):
        path = images / f"{index // 1000:04d}" / f"{index:08d}.jpg"
        if index % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(index))
        if with_texts:
            path.with_suffix(".txt").write_text(caption(index))
    return images


def make_folder(folder, number):
    """Write images with captions beside them."""
    return FolderSource(images_uri=str(make_files(folder, number, with_texts=True)))


def make_paths(folder, number):
    """Write images and a Parquet table of their paths."""
    images = make_files(folder, number, with_texts=False)
    path = folder / "paths.parquet"
    names = [f"{index // 1000:04d}/{index:08d}.jpg" for index in range(number)]
    pq.write_table(pa.table({"file_name": names, "caption": [caption(n) for n in range(number)]}), path)
    return ParquetSource(table_uri=str(path), images_uri=str(images))


MAKERS = {"stored": make_stored, "folder": make_folder, "paths": make_paths}


def forked(work):
    """Do some work in a forked process and return its peak memory in MiB and its CPU seconds."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise RuntimeError(f"a child ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def measure(kind, number):
    """Return peak memory in MiB and CPU seconds of a curation; its source is made in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="softalign-bench-") as name:
        folder = Path(name)
        forked(lambda: MAKERS[kind](folder, number))
        source = {
            "stored": lambda: ParquetSource(table_uri=str(folder / "images.parquet"), images_uri=name),
            "folder": lambda: FolderSource(images_uri=str(folder / "images")),
            "paths": lambda: ParquetSource(table_uri=str(folder / "paths.parquet"), images_uri=str(folder / "images")),
        }[kind]()
        config = CurationConfig(name="bench", sources=(source,))

        def work():
            manifest = curate(config, Store(str(folder / "store")), "k")
            if manifest.num_seen != number or manifest.num_samples < 0.99 * number:
                raise RuntimeError(f"kept {manifest.num_samples} of {number}")

        return forked(work)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--sources", nargs="+", choices=MAKERS, default=list(MAKERS))
    asked = parser.parse_args()
    is_bounded = True
    print(f"before: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    print("  source |  images | peak MiB | of the first | bytes an image more | CPU s | s")
    for kind in asked.sources:
        first = None
        for number in asked.images:
            begin = time.perf_counter()
            peak, cpu_s = measure(kind, number)
            first = first or (peak, number)
            more = (peak - first[0]) * 2**20 / max(number - first[1], 1)
            took = f"{cpu_s:5.0f} | {time.perf_counter() - begin:.0f}"
            print(
                f"{kind:>8} | {number:7d} | {peak:8.1f} | {peak / first[0]:12.3f} | {more:19.0f} | {took}", flush=True
            )
            is_bounded = is_bounded and peak <= BOUND * first[0]
    return 0 if is_bounded else 1


if __name__ == "__main__":
    sys.exit(main())
