"""Local JPEG files to shards of 512 px beside img2dataset, on the same files over loopback: images a second of a core.

``python -m tests.bench.curate_img2dataset [--images 1000] [--width 1280] [--size 512 | --keep] [--python PYTHON]``

Files are photographs of the COCO sample (../shared) flipped, cropped, brought to ``--width`` pixels and saved in
several qualities. Each tool runs alone, bound to one core, once with a few images and once with all: the difference is
what an image costs, without the start. CPU time of the tool's processes counts, as other work may go on; the HTTP
server is not in it. Both decode, reduce to the shorter side, save every image anew as JPEG of quality 95 with colour at
half the resolution (4:2:0), also those that are not reduced, and write tars of 512. With ``--keep`` both decode every
image, to refuse damaged ones, and keep its bytes.

- img2dataset: area interpolation (OpenCV), SHA-256 of what came, reads EXIF; one process, one thread.
- ours: the mean of pixels (Pillow), SHA-256 of both files, sRGB by profile, captions checked and mended, duplicates,
  what is left out by name, an index, checksums; one process, its threads share the core. With perceptual hashes, which
  find near-duplicates and are on by default, and without, as img2dataset has none.

img2dataset is no dependency: ``python -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset``, then
``--python /tmp/i2d/bin/python``. Exit code 1: ours without hashes is slower per core.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parents[2]
PHOTOGRAPHS = ROOT.parent / "shared/data/coco/train2017"
FEW = 16
QUALITY, SHARD = 95, 512
THEIRS = """
import json, sys
from img2dataset import download
if __name__ == "__main__":
    download(**json.loads(sys.argv[1]))
"""


@dataclass(frozen=True)
class Took:
    """What a process and its children took, and how many images it wrote."""

    cpu_s: float
    wall_s: float
    images: int


def make_photographs(folder, number, width_px):
    """Write JPEG files like no other each, with a caption beside them."""
    folder.mkdir()
    sources, rng = sorted(PHOTOGRAPHS.glob("*.jpg")), np.random.default_rng(0)
    for index in range(number):
        image = Image.open(sources[index % len(sources)]).convert("RGB")
        image = ImageOps.mirror(image) if index // len(sources) % 2 else image
        left, top = (int(rng.integers(0, side // 4)) for side in image.size)
        image = image.crop((left, top, left + image.width * 3 // 4, top + image.height * 3 // 4))
        image = ImageOps.scale(image, width_px / max(image.size), Image.Resampling.LANCZOS)
        image.save(folder / f"{index:05d}.jpg", quality=int(rng.integers(80, 96)))
        (folder / f"{index:05d}.txt").write_text(f"a photograph, which is number {index}")


def measured(command, folder, count):
    """Run a command on one core and return what it took."""
    log, cores = folder / "log", os.sched_getaffinity(0)
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    begin = time.perf_counter()
    os.sched_setaffinity(0, {min(cores)})  # the child inherits it
    try:
        with log.open("ab") as file:
            process = subprocess.Popen(command, env=variables, stdout=file, stderr=file)
    finally:
        os.sched_setaffinity(0, cores)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command[:3]} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return Took(usage.ru_utime + usage.ru_stime, wall_s, count())


def theirs(python, folder, names, size_px, address):
    """Have img2dataset make shards of some files behind HTTP."""
    folder.mkdir()
    listed = folder / "urls.csv"
    listed.write_text("url,caption\n" + "".join(f"{address}/{name},number {name}\n" for name in names))
    options = {
        "url_list": str(listed), "input_format": "csv", "url_col": "url", "caption_col": "caption",
        "output_folder": str(folder / "out"), "output_format": "webdataset", "processes_count": 1, "thread_count": 1,
        "resize_only_if_bigger": True, "encode_quality": QUALITY, "number_sample_per_shard": SHARD,
    }  # fmt: skip
    kept = {"resize_mode": "no", "skip_reencode": True}
    options |= {"image_size": size_px, "resize_mode": "keep_ratio"} if size_px else kept
    script = folder / "theirs.py"
    script.write_text(THEIRS)

    def count():
        return sum(json.loads(path.read_text())["successes"] for path in (folder / "out").glob("*_stats.json"))

    return measured([python, str(script), json.dumps(options)], folder, count)


def ours(folder, images, size_px, *, is_hashed):
    """Curate a folder of files."""
    folder.mkdir()
    source = {"type": "folder", "images_uri": str(images)}
    curation = {"name": "bench", "sources": [source], "samples_per_shard": SHARD}
    curation |= {"image_format": "jpg", "image_quality": QUALITY, "image_size_px": size_px} if size_px else {}
    curation |= {} if is_hashed else {"filters": {"max_hash_distance": -1}}
    backbone = {"family": "sd15", "model": "none", "resolution_px": 512}
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        json.dumps({"name": "bench", "curation": curation, "backbone": backbone, "register": {"name": "bench"}})
    )

    def count():
        (manifest,) = (folder / "store/curate").glob("*/manifest.json")
        return json.loads(manifest.read_text())["num_samples"]

    command = [sys.executable, "-m", "softalign", "curate", str(recipe), "--store", str(folder / "store")]
    return measured(command, folder, count)


def serve(folder):
    """Serve a folder on a port of its own and return the process and the address once it answers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"http://127.0.0.1:{port}"
        time.sleep(0.05)
    raise RuntimeError("the HTTP server did not start")


def line(name, few, all_):
    """Return what an image costs, and images a second."""
    images = all_.images - few.images
    cpu_s, wall_s = (all_.cpu_s - few.cpu_s) / images, (all_.wall_s - few.wall_s) / images
    print(
        f"{name:>12} | {all_.images:6d} | {few.cpu_s:6.2f} | {1e3 * cpu_s:7.2f} | {1 / cpu_s:8.1f} | {1 / wall_s:8.1f}"
    )
    return 1 / cpu_s


def compare(root, python, number, width_px, size_px):
    """Print a table and return how many times as fast per core ours is without hashes."""
    make_photographs(root / "images", number, width_px)
    names = sorted(path.name for path in (root / "images").glob("*.jpg"))
    few = root / "few"
    few.mkdir()
    for path in sorted((root / "images").iterdir())[: 2 * FEW]:
        shutil.copy(path, few)
    server, address = serve(root / "images")
    try:
        their_few = theirs(python, root / "their-few", names[:FEW], size_px, address)
        their_all = theirs(python, root / "their-all", names, size_px, address)
    finally:
        server.terminate()
        server.wait()
    print(f"{number} JPEG files of {width_px} px, " + (f"shorter side to {size_px} px" if size_px else "kept"))
    print("             | images | start s | CPU ms an image | images a CPU second | images a second")
    their_rate = line("img2dataset", their_few, their_all)
    ratio = 0.0
    for name, is_hashed in (("with hashes", True), ("without", False)):
        our_few = ours(root / f"our-few-{name}", few, size_px, is_hashed=is_hashed)
        ratio = line(name, our_few, ours(root / f"our-all-{name}", root / "images", size_px, is_hashed=is_hashed))
        ratio /= their_rate
        print(f"ours, {name}, of img2dataset per core: {ratio:.2f}")
    return ratio


def has_img2dataset(python):
    """Return whether a Python has it."""
    asking = [python, "-c", "import img2dataset"]
    return Path(python).exists() and not subprocess.run(asking, check=False, capture_output=True).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--width", type=int, default=1280, help="longer side of the files, px")
    parser.add_argument("--size", type=int, default=512, help="shorter side in the shards, px")
    parser.add_argument("--keep", action="store_true", help="keep the files' bytes")
    parser.add_argument("--python", default="/tmp/i2d/bin/python", help="of an environment with img2dataset")
    asked = parser.parse_args()
    size_px = None if asked.keep else asked.size
    if not PHOTOGRAPHS.is_dir():
        print(f"skipped: needs the COCO sample in {PHOTOGRAPHS}")
        return 0
    if not has_img2dataset(asked.python):
        print("skipped: needs img2dataset in an environment of its own:")
        print("  python -m venv /tmp/i2d && /tmp/i2d/bin/pip install img2dataset   # then --python /tmp/i2d/bin/python")
        return 0
    with tempfile.TemporaryDirectory(prefix="softalign-bench-") as folder:
        return 0 if compare(Path(folder), asked.python, asked.images, asked.width, size_px) >= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
