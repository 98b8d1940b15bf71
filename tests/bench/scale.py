"""What metadata costs at 1 M, 100 M and 2 B images: no pixels, measured here and extrapolated, with the arithmetic.

``python -m tests.bench.scale [--rows N] [--shards N]``: every structure that grows with images, captions or shards is
built by the library's own code with synthetic rows, each in a process of its own: bytes on disk, resident bytes and
seconds by unit, times the units of a dataset. Exit code 1 if a record grows with the dataset.
"""

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

SIZES = {"1 M": 10**6, "100 M": 10**8, "2 B": 2 * 10**9}
ROWS_PER_SHARD = 512
CAPTIONS = 2
LIBRARIES = ("pyarrow.parquet", "softalign.data.curation.pipeline", "softalign.data.encoding.encode")
MACHINE_BYTES = 256 << 30
"""Memory of the machine that a structure must fit into; where it does not, the structure breaks."""


@dataclass(frozen=True)
class Cost:
    """What one unit of a structure costs; seconds and bytes are of ``number`` units together until divided."""

    name: str
    unit: str
    number: int
    seconds: float
    memory_bytes: float
    disk_bytes: float = 0.0


def apart(call):
    """Return what ``call()`` returns in a forked process: what it leaves in memory is not measured."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(call()))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        child.join()


def measure(function, number):
    """Return the costs that a measurement yields, in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="softalign-scale-") as folder:
        return apart(lambda: list(function(Path(folder), number)))


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def digest(number):
    return hashlib.sha256(str(number).encode()).hexdigest()


def rows_of(shard, number=ROWS_PER_SHARD):
    from softalign.data.curation.shards import IndexRow

    for place in range(number):
        own = digest((shard, place))
        captions = [f"a photo of a {own[:6]} {own[6:11]} and a {own[11:16]} {own[16:22]}, {c}" for c in range(CAPTIONS)]
        yield IndexRow(
            key=own[:32],
            split="train",
            image_digest=own,
            captions=captions,
            caption_digests=[digest(caption) for caption in captions],
            caption_sources=["0-parquet"] * len(captions),
            caption_files=[f"{own[:2]}/{own[2:34]}.jpg"] * len(captions),
            width_px=1024,
            height_px=1024,
            source="0-parquet",
            file_name=f"{own[:2]}/{own[2:34]}.jpg",
            extension="jpg",
            offset_bytes=place * 100_000,
            size_bytes=100_000,
            perceptual_hash=own,
        )


def measured(build):
    """Return seconds and resident bytes of what ``build()`` returns, with what it returns kept alive."""
    before, started = resident(), time.perf_counter()
    kept = build()
    return time.perf_counter() - started, resident() - before, kept


def captions_table(root, rows):
    """Curate: the captions table, whose rows are grouped by image on the disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from softalign.config import ParquetSource
    from softalign.data.curation.sources import reader_of

    def write(number):
        listed = [row for shard in range(number // ROWS_PER_SHARD) for row in rows_of(shard)]
        table = {
            "file_name": [row.file_name for row in listed for _ in row.captions],
            "caption": [caption for row in listed for caption in row.captions],
        }
        pq.write_table(pa.table(table), root / f"{number}.parquet", compression="zstd")
        return len(listed)

    def group(number):
        source = ParquetSource(type="parquet", table_uri=str(root / f"{number}.parquet"), images_uri=str(root))
        table = reader_of(source).grouped()
        assert sum(1 for _ in table.images()) == number
        return table

    number, few = (apart(partial(write, size)) for size in (rows, rows // 4))
    to_begin_with = apart(lambda: measured(lambda: group(few))[1])  # most of it: libraries, and Arrow's buffers
    seconds, memory, kept = measured(lambda: group(number))
    scratch = kept._captions._scratch
    size = scratch.number("PRAGMA page_count") * scratch.number("PRAGMA page_size")
    memory = max(0, memory - to_begin_with) * number / (number - few)
    yield Cost("captions table (curate groups it on the disk)", "images", number, seconds, memory, size)


def duplicates(root, rows):
    """Curate: what the duplicate filter remembers."""
    from softalign.config import FilterConfig, Runtime
    from softalign.data.curation.pipeline import _CurateRun

    class Config:
        filters = FilterConfig()

    run = _CurateRun(Config(), Runtime(), root / "work")
    rng = random.Random(0)
    known = [(digest(number), rng.getrandbits(256)) for number in range(rows)]
    before, started = resident(), time.perf_counter()
    for image_digest, value in known:
        run.duplicates._near.find(value)
        run._remember(image_digest, value)
    seconds, memory = time.perf_counter() - started, resident() - before
    yield Cost("duplicate filter (curate's memory)", "images", rows, seconds, memory)


def journal(root, shards):
    """Curate: journal entries and shard indexes."""
    from softalign.artifacts import FileEntry
    from softalign.data.curation.journal import JournalEntry
    from softalign.data.curation.shards import INDEX_SCHEMA, read_index, shard_name, write_rejections, write_table
    from softalign.store.files import write_atomically

    number = min(shards, 2000)
    entry = JournalEntry(
        num_seen=10**9,
        files=tuple(
            FileEntry(path=f"output/{shard_name(1)}{end}", size_bytes=10**8, sha256=digest(end))
            for end in (".tar", ".parquet", ".rejected.parquet")
        ),
        nums_own_captions=(2,) * 512,
    )
    started = time.perf_counter()
    for index in range(number):
        write_atomically(root / f"{index}.json", entry.model_dump_json().encode())
    seconds = time.perf_counter() - started
    write_rejections(root / "rejected.parquet", [])
    size = (root / "0.json").stat().st_size + (root / "rejected.parquet").stat().st_size
    yield Cost("journal entry (fsync included)", "shards", number, seconds, 0, number * size)
    number = 40
    for index in range(number):
        write_table(root / f"{index}.parquet", list(rows_of(index)), INDEX_SCHEMA)
    size = sum((root / f"{index}.parquet").stat().st_size for index in range(number))
    seconds, memory, kept = measured(lambda: [read_index(root / f"{index}.parquet") for index in range(number)])
    images = sum(map(len, kept))
    yield Cost("shard index rows (encode holds all)", "images", images, seconds, memory, size)


def file_list(root, shards):
    """All stages: the list of a dataset's files."""
    from softalign.artifacts import DatasetManifest, FileEntry, digest_of
    from softalign.data.curation.shards import shard_name
    from softalign.store.store import Store

    store = Store(str(root / "store"))

    def write():
        files = [
            FileEntry(path=f"{shard_name(i)}{end}", size_bytes=10**8 + i, sha256=digest((i, end))).model_dump()
            for i in range(shards)
            for end in (".tar", ".parquet")
        ]
        manifest = DatasetManifest(
            stage_key="k" * 64,
            name="n" * 100,
            num_samples=2 * 10**9,
            num_captions=4 * 10**9,
            num_val_samples=10**8,
            num_shards=shards,
            total_bytes=2 * 10**14,
            num_seen=2 * 10**9,
            files_digest=digest_of(files),
        )
        folder = Path(store.prefix("curate", manifest.stage_key))
        folder.mkdir(parents=True)
        (folder / "files.json").write_text(json.dumps(files, indent=1) + "\n")
        return manifest.model_copy(update={"uri": str(folder)})

    manifest = apart(write)
    folder = Path(manifest.uri)
    size = (folder / "files.json").stat().st_size
    seconds, memory, _kept = measured(lambda: {entry.path: entry for entry in store.files(manifest)})
    yield Cost("files.json (each process that opens shards)", "shards", shards, seconds, memory, size)
    yield Cost("manifest.json", "datasets", 1, 0, 0, len(manifest.to_json()))


def pool_indexes(root, shards):
    """Encode: the pool's indexes, which are read before anything is encoded."""
    from softalign.artifacts import FileEntry
    from softalign.data.encoding.pool import EncodedPool, PoolShard, PoolTensor, _group_digest, pool_folder
    from softalign.store.store import Store

    number = min(shards, 400)
    folder = root / "store" / "encoded" / pool_folder(("latents",), ["x"])
    folder.mkdir(parents=True)
    tensors = (PoolTensor(name="latents", row_shape=(16, 64, 64)),)
    for index in range(number):
        digests = tuple(digest((index, place)) for place in range(ROWS_PER_SHARD))
        entry = FileEntry(
            path=f"encoded/{folder.name}/{digest(index)[:32]}.safetensors", size_bytes=4, sha256=digest(index)
        )
        (root / "store" / entry.path).write_bytes(b"none")
        shard = PoolShard(digests=digests, tensors=tensors, file=entry)
        (folder / f"{_group_digest(digests)}.json").write_text(shard.model_dump_json())
    size = sum(path.stat().st_size for path in folder.glob("*.json"))
    store = Store(str(root / "store"))
    seconds, memory, _kept = measured(lambda: EncodedPool(store, ("latents",), ["x"]))
    yield Cost("pool of latents (encode holds all)", "images", number * ROWS_PER_SHARD, seconds, memory, size)


def reader(root, rows):
    """Train: opening the reader, and going to any place of any epoch."""
    import torch
    from safetensors.torch import save_file

    from softalign.artifacts import EncodedManifest, canonical_json, digest_of
    from softalign.data.curation.shards import write_table
    from softalign.data.encoding.pool import PoolShard, PoolTensor
    from softalign.data.encoding.reader import EncodedReader
    from softalign.data.encoding.sample_rows import SAMPLE_SCHEMA, SampleRow
    from softalign.store.store import Store

    store = Store(str(root / "store"))

    def write():
        (root / "store" / "encoded").mkdir(parents=True)
        output = root / "output"
        output.mkdir()
        samples, shards = [], {"latents": [], "texts": []}
        entries = {}
        for name, tensor in (("latents", "latents"), ("texts", "prompt_embeds")):
            save_file({tensor: torch.zeros(CAPTIONS * ROWS_PER_SHARD, 1, 1, 1)}, root / "made.safetensors")
            entries[name] = (tensor, store.add_shared(name, root / "made.safetensors"))
        for shard in range(rows // ROWS_PER_SHARD):
            own = list(rows_of(shard))
            samples += [SampleRow(r.key, r.split, r.image_digest, r.captions, r.caption_digests, [[], []]) for r in own]
            groups = {"latents": [r.image_digest for r in own], "texts": [d for r in own for d in r.caption_digests]}
            for name, digests in groups.items():
                tensor, entry = entries[name]
                described = (PoolTensor(name=tensor, row_shape=(1, 1, 1)),)
                shards[name].append(
                    PoolShard(digests=tuple(digests), tensors=described, file=entry).model_dump(mode="json")
                )
        write_table(output / "samples.parquet", samples, SAMPLE_SCHEMA)
        for name, listed in shards.items():
            (output / f"{name}.json").write_bytes(canonical_json(listed))
        number = len(samples)
        manifest = EncodedManifest(
            stage_key=digest_of(["k"]),
            name="scale",
            backbone_digest="b",
            vae_digest="v",
            text_encoder_digest="t",
            latent_shape=(1, 1, 1),
            text_shape=(1, 1),
            pooled_width=0,
            hard_negatives_per_caption=0,
            num_samples=number,
            num_val_samples=0,
            num_latents=number,
            num_texts=number * CAPTIONS,
            total_bytes=1,
        )
        size = sum(path.stat().st_size for path in output.iterdir())
        return store.publish(manifest, output), size

    published, size = apart(write)
    number = published.num_samples
    seconds, memory, kept = measured(lambda: EncodedReader(published, store, split="train", batch_size=16, seed=0))
    yield Cost("reader (each training process)", "images", number, seconds, memory, size)
    started = time.perf_counter()
    kept.batch_at(0)
    first = time.perf_counter() - started
    started = time.perf_counter()
    for place in range(100):
        kept.batch_at(16 * ((place * 7919) % (kept.num_samples // 16)))
    yield Cost("reader: a batch of 16 anywhere in an epoch", "batches", 100, time.perf_counter() - started, 0)
    yield Cost("reader: orders of two epochs", "images", number, first, 16 * number)


def planning(root, rows):
    """Plan: what a source is now, by its images' names and sizes."""
    from softalign.config import ParquetSource
    from softalign.data.curation.fingerprint import source_fingerprint

    number = min(rows, 50_000)
    for index in range(number):
        path = root / "images" / digest(index)[:2] / f"{digest(index)[:32]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "captions.parquet").write_bytes(b"none")
    source = ParquetSource(type="parquet", table_uri=str(root / "captions.parquet"), images_uri=str(root / "images"))
    seconds, memory, _kept = measured(lambda: source_fingerprint(source))
    yield Cost("plan: names and sizes of a source's images (local disk)", "images", number, seconds, memory)


def main():
    """Measure, extrapolate and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=102_400, help="images of the structures that grow with images")
    parser.add_argument("--shards", type=int, default=100_000, help="shards of the structures that grow with shards")
    options = parser.parse_args()
    for module in LIBRARIES:  # here, so that no measurement pays for one
        importlib.import_module(module)
    costs = []
    by_rows, by_shards = (captions_table, duplicates, reader, planning), (journal, file_list, pool_indexes)
    for function in (*by_rows, *by_shards):
        costs += measure(function, options.rows if function in by_rows else options.shards)
        print(f"measured {function.__name__}", file=sys.stderr)
    print("| structure | unit | measured with | s / unit | memory / unit | disk / unit | breaks at |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cost in costs:
        memory, disk, seconds = (part / cost.number for part in (cost.memory_bytes, cost.disk_bytes, cost.seconds))
        images = ROWS_PER_SHARD if cost.unit == "shards" else 1
        limit = f"{MACHINE_BYTES / memory * images / 1e6:,.0f} M images" if memory > 1 else "-"
        unit = f"{seconds:.3g} | {memory:,.0f} B | {disk:,.0f} B"
        print(f"| {cost.name} | {cost.unit} | {cost.number:,} | {unit} | {limit} |")
    print()
    print("| structure | " + " | ".join(f"{name} images" for name in SIZES) + " |")
    print("| --- |" + " --- |" * len(SIZES))
    for cost in costs:
        if cost.unit not in {"images", "shards"}:
            continue
        cells = []
        for images in SIZES.values():
            units = images if cost.unit == "images" else images / ROWS_PER_SHARD
            factor = units / cost.number
            cells.append(
                f"{cost.memory_bytes * factor / 2**30:,.1f} GiB, disk {cost.disk_bytes * factor / 2**30:,.1f} GiB, "
                f"{cost.seconds * factor / 60:,.1f} min"
            )
        print(f"| {cost.name} | " + " | ".join(cells) + " |")
    record = next(cost for cost in costs if cost.name == "manifest.json")
    return 0 if record.disk_bytes < 4096 else 1


if __name__ == "__main__":
    sys.exit(main())
