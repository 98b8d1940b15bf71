"""Reading a curated dataset beside ``tarfile``, and encodings beside safetensors: samples per second, interleaved.

``python -m tests.bench.reader [--rounds N]``: publishes a dataset of 2,048 images of 60 kB in shards of 512 and its
encodings (SD1.5's sizes), in a local store. Each round reads all of both ways, one after the other:

- curated: every image with its captions, verified by sha256 (``OpenedDataset``), and every member of the same tars
  with ``tarfile``, unverified and unparsed;
- encoded: an epoch of the reader's batches, in random order, and the same rows in the files' order with safetensors.

Prints one JSON document of medians; exit code 1 where curated reading is below 0.8 of tarfile, by samples per second of
CPU: the files are in memory, and other work on the machine does not count. Nothing is decoded.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from softalign.artifacts import DatasetManifest, EncodedManifest, canonical_json
from softalign.data.curation.published import OpenedDataset
from softalign.data.curation.samples import Sample, caption_digest
from softalign.data.curation.shards import shard_name, write_rejections
from softalign.data.curation.tars import ShardWriter
from softalign.data.encoding.pool import PoolShard, PoolTensor
from softalign.data.encoding.reader import EncodedReader
from softalign.data.encoding.sample_rows import write_samples
from softalign.store.store import Store

BOUND = 0.8
NUM, PER_SHARD, IMAGE_BYTES, BATCH = 2048, 512, 60_000, 16
LATENT, TEXT = (4, 64, 64), (77, 768)


def sample(number):
    data = hashlib.shake_128(str(number).encode()).digest(IMAGE_BYTES)
    captions = (f"a photo of thing {number} on a table", f"thing {number}, seen from the left")
    digest = hashlib.sha256(data).hexdigest()
    return Sample("0-coco", f"{number:06d}.jpg", captions, data, "jpg", digest, number, 512, 512)


def publish_curated(store, root):
    """Publish the dataset; return it and its rows."""
    folder, rows = root / "curated", []
    folder.mkdir()
    for index in range(NUM // PER_SHARD):
        writer = ShardWriter(folder, shard_name(index), 0.0)
        for number in range(index * PER_SHARD, (index + 1) * PER_SHARD):
            one = sample(number)
            writer.add(one, one.image_digest[:32])
        rows += writer.close()
    write_rejections(folder / "rejected.parquet", [])
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    counts = {"num_samples": NUM, "num_captions": 2 * NUM, "num_val_samples": 0, "num_shards": NUM // PER_SHARD}
    manifest = DatasetManifest(stage_key="d", name="bench", total_bytes=size, num_seen=NUM, **counts)
    return store.publish(manifest, folder), rows


def publish_encoded(store, root, rows):
    """Publish encodings of the rows, in shards as large as the dataset's."""
    folder = root / "encoded"
    folder.mkdir()
    write_samples(folder / "samples.parquet", [(row, [[], []]) for row in rows], {})
    texts = [caption_digest(""), *(digest for row in rows for digest in row.caption_digests)]
    kinds = (
        ("latents", "latents", LATENT, [row.image_digest for row in rows]),
        ("texts", "prompt_embeds", TEXT, texts),
    )
    for name, tensor, shape, digests in kinds:
        shards = []
        for start in range(0, len(digests), PER_SHARD):
            part = tuple(digests[start : start + PER_SHARD])
            save_file({tensor: torch.zeros(len(part), *shape, dtype=torch.float16)}, root / "made.safetensors")
            with (root / "made.safetensors").open("r+b") as file:  # else all shards were one
                file.seek(-8, 2)
                file.write(start.to_bytes(4, "little") + bytes(4))
            entry = store.add_shared(name, root / "made.safetensors")
            shard = PoolShard(digests=part, tensors=(PoolTensor(name=tensor, row_shape=shape),), file=entry)
            shards.append(shard.model_dump(mode="json"))
        (folder / f"{name}.json").write_bytes(canonical_json(shards))
    digests = {"backbone_digest": "b", "vae_digest": "v", "text_encoder_digest": "t"}
    shapes = {"latent_shape": LATENT, "text_shape": TEXT, "pooled_width": 0, "hard_negatives_per_caption": 0}
    counts = {"num_samples": NUM, "num_val_samples": 0, "num_latents": NUM, "num_texts": len(texts), "total_bytes": 1}
    return store.publish(EncodedManifest(stage_key="e", name="bench", **digests, **shapes, **counts), folder)


def curated_by_reader(dataset, store):
    opened, size = OpenedDataset(dataset, store), 0
    for one in opened.samples():
        size += len(opened.image(one)) + len(one.row.captions)
    return size


def curated_by_tarfile(dataset, store):
    size = 0
    for path in sorted(Path(dataset.uri).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                size += len(tar.extractfile(member).read())
    return size


def encoded_by_reader(reader):
    for cursor in range(0, NUM, BATCH):
        reader.batch_at(cursor)


def encoded_by_safetensors(store):
    """Read as many rows, batch by batch, in the files' order, as float32."""
    latents, texts = (sorted(Path(store.uri, "encoded", name).glob("*.safetensors")) for name in ("latents", "texts"))
    for paths, name in ((latents, "latents"), (texts[: NUM // PER_SHARD], "prompt_embeds")):
        for path in paths:
            with safe_open(path, framework="pt") as shard:
                rows = shard.get_slice(name)
                for start in range(0, PER_SHARD, BATCH):
                    rows[start : start + BATCH].to(torch.float32)


def rates(call, *arguments):
    """Return samples per second: by the clock, and of this process's CPU."""
    started, started_cpu = time.perf_counter(), time.process_time()
    call(*arguments)
    return {"wall": NUM / (time.perf_counter() - started), "cpu": NUM / (time.process_time() - started_cpu)}


def measure(rounds):
    """Return the medians of samples per second, and of the ratios within a round, by both clocks."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        store = Store(str(root / "store"))
        dataset, rows = publish_curated(store, root)
        reader = EncodedReader(publish_encoded(store, root, rows), store, split="train", batch_size=BATCH, seed=0)
        encoded_by_reader(reader)  # verifies every shard, once
        ways = {
            "curated_reader": lambda: rates(curated_by_reader, dataset, store),
            "curated_tarfile": lambda: rates(curated_by_tarfile, dataset, store),
            "encoded_reader": lambda: rates(encoded_by_reader, reader),
            "encoded_safetensors": lambda: rates(encoded_by_safetensors, store),
        }
        measured = [{name: way() for name, way in ways.items()} for _ in range(rounds)]
    return dict(summaries(measured))


def summaries(measured):
    """Yield the medians of the rates, and of the rounds' ratios."""
    for clock in ("wall", "cpu"):
        for name in measured[0]:
            yield f"{name}_samples_per_{clock}_s", round(statistics.median(one[name][clock] for one in measured))
        for kind, plain in (("curated", "tarfile"), ("encoded", "safetensors")):
            found = (one[f"{kind}_reader"][clock] / one[f"{kind}_{plain}"][clock] for one in measured)
            yield f"{kind}_{clock}_ratio", round(statistics.median(found), 2)


def main():
    """Measure, print, and fail below the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    found = measure(parser.parse_args().rounds) | {"bound": BOUND}
    print(json.dumps(found, indent=1))
    sys.exit(found["curated_cpu_ratio"] < BOUND)


if __name__ == "__main__":
    main()
