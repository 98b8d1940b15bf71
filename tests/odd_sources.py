"""A generator of odd sources: files and table rows that are damaged, disguised or misnamed, from a seed.

Every item has a name of its own, so that whatever happens to it can be told.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from softalign.config import CocoSource, FolderSource, ParquetSource, TableSource, WebDatasetSource
from tests.odd_images import CONTENTS, Rng, pick

COPIES_SHARE = 0.15
LONG, DEEP = "x" * 300, "/x" * 3000
NAMES = (
    *("{}.jpg", "{} with space.png", "{}%20.jpg", "{}?x=1#y.jpg", "{}[1]*.jpg", "{}'\".jpg", "album/{}::b.jpg"),
    *("web/https://h/{}.jpg", "~{}.jpg", "12:30-{}.jpg", "{}\u00e9.jpg", "{}e\u0301.jpg", "\u732b/{}\U0001f600.jpg"),
    *("{} .jpg", "./{}.jpg", "d//{}.jpg", "-{}.jpg", "{}\n.jpg", "{}\x1b[31m.jpg", "{}\u202e.jpg", "{}.jpg/"),
    *("{}\ud83d.jpg", "{}\udce9.jpg", "{}\0.jpg", "../{}.jpg", "/abs/{}.jpg", "C:\\{}.jpg", "https://h/{}.jpg"),
    *("train\\{}.jpg", f"{{}}{LONG}.jpg", f"{{}}{DEEP}", "{}.jpg/below.jpg", "{}..jpg", "...{}.jpg", "d/./{}.jpg"),
    *("d/../{}.jpg", "s3://b/{}.jpg", "{}://x.jpg", "{}.JPG", "{}.", "circle/{}.jpg", "\u00c5{}.jpg", "A\u030a{}.jpg"),
)
"""Patterns of names as tables of other systems hold them; some can name no file anywhere."""
CAPTIONS = (
    *(
        "",
        " \t\n",
        "\u200b\u200b",
        "x" * 5000,
        "a\0b c",
        "\x1b[31mred",
        "half \ud83d",
        "byte \udce9",
        "caf\u00c3\u00a9",
    ),
    *(None, 7, 7.5, True, ("a",), float("nan"), 10**30, -0.0, [["deep"], None], {"text": "a"}, [], "nan", "null", "[]"),
    *("a word " * 12_000, '"', "a,b", "caption\r\nwith lines", "\ufeffmarked", "&lt;b&gt;bold", "\u202eturned"),
)
ENTRIES = (None, 7, "x", (), {}, {"id": None, "file_name": "x.jpg"}, {"image_id": "unknown", "caption": "x"})


def odd_name(rng: Rng, number: int) -> object:
    """Return a name no other item has; a few are no text at all."""
    text = (pick(rng, NAMES) if rng.random() < 0.5 else "{}.png").format(f"{number:05d}")
    return text if rng.random() < 0.97 else pick(rng, (number, number + 0.5, [text], {"path": text}, None, ""))


def odd_caption(rng: Rng, number: int) -> object:
    """Return a caption, at times as crawls and annotators leave them."""
    return f"scene number {number}" if rng.random() < 0.6 else pick(rng, CAPTIONS)


@dataclass
class OddSource:
    """A folder of odd files, with the rows that name them.

    Attributes:
        names: what each item is called in its table.
        captions: of each item.
    """

    root: Path
    names: list[object] = field(default_factory=list)
    captions: list[list[object]] = field(default_factory=list)

    @property
    def images(self) -> Path:
        return self.root / "images"

    def fill(self, num_items: int, seed: int) -> OddSource:
        """Make the files and rows of so many items."""
        rng, earlier = np.random.default_rng(seed), list[bytes]()
        self.images.mkdir(parents=True)
        os.symlink(".", self.images / "circle")
        for number in range(num_items):
            name, is_copy = odd_name(rng, number), bool(earlier) and rng.random() < COPIES_SHARE
            content = pick(rng, earlier) if is_copy else pick(rng, CONTENTS)(rng)
            earlier.append(content)
            if isinstance(name, str) and name:
                self._place(name, content, float(rng.random()))
            self.names.append(name)
            self.captions.append([odd_caption(rng, number) for _ in range(int(rng.integers(0, 6)))])
        return self

    def _place(self, name: str, content: bytes, kind: float) -> None:
        """Put a file, or what is none, where a name leads; outside the folder and where no file can be, nothing."""
        written = name if kind < 0.5 else unicodedata.normalize("NFD", name)  # accents: two ways to write them
        path = self.images / written.replace("\\", "/").strip("/")
        if ".." in path.parts or "\0" in name or "\ud83d" in name or len(name) > 200:
            return
        path = path.parent if path.name == "below.jpg" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind < 0.03:
            path.mkdir()
        elif kind < 0.05:
            os.symlink(path.name, path)
        elif kind < 0.06:
            os.mkfifo(path)
        elif kind > 0.08:  # some are missing
            path.write_bytes(content)

    def coco(self, seed: int) -> CocoSource:
        """Write the rows as a COCO file with odd ids and entries, and bytes that are no UTF-8."""
        rng, images, annotations = np.random.default_rng(seed), list[object](), list[object]()
        for number, (name, captions) in enumerate(zip(self.names, self.captions, strict=True)):
            image_id = pick(rng, (number, float(number), f"id {number}"))
            images.append({"id": image_id, "file_name": name})
            annotations += [{"image_id": image_id, "caption": caption} for caption in captions]
        for entries in (images, annotations):
            for _ in range(len(self.names) // 50):
                entries.insert(int(rng.integers(len(entries))), pick(rng, ENTRIES))
        path = self.root / "captions.json"
        path.write_bytes(
            json.dumps({"images": images, "annotations": annotations}).encode().replace(rb"\udce9", b"\xe9")
        )
        return CocoSource(annotations_uri=str(path), images_uri=str(self.images))

    def _cells(self) -> list[tuple[bytes | None, bytes | None]]:
        """Return a row for each caption, in the bytes of text cells."""
        return [
            (cell_of(name), cell_of(caption))
            for name, captions in zip(self.names, self.captions, strict=True)
            for caption in (captions or [None])
        ]

    def parquet(self) -> ParquetSource:
        """Write the rows as a Parquet table with cells that are no UTF-8, and null ones."""
        columns = [pa.array(column, pa.binary()).view(pa.string()) for column in zip(*self._cells(), strict=True)]
        path = self.root / "captions.parquet"
        pq.write_table(pa.table(columns, ["file_name", "caption"]), path)
        return ParquetSource(table_uri=str(path), images_uri=str(self.images))

    def stored(self) -> TableSource:
        """Write the images into an Arrow table with lists of captions; those that are no files by their path."""
        data = [self.content(name) for name in self.names]
        paths = pa.array([cell_of(name) for name in self.names], pa.binary()).view(pa.string())
        flat = pa.array([cell_of(text) for texts in self.captions for text in texts], pa.binary()).view(pa.string())
        ends = np.cumsum([0, *map(len, self.captions)])
        table = pa.table(
            {
                "file_name": pa.StructArray.from_arrays([pa.array(data, pa.binary()), paths], ["bytes", "path"]),
                "caption": pa.ListArray.from_arrays(pa.array(ends, pa.int32()), flat),
            }
        )
        path = self.root / "images.arrow"
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, 50)
        return TableSource(table_uri=str(path), images_uri=str(self.images))

    def csv(self) -> TableSource:
        """Write the rows as CSV, captions in quotes where they need them; names and bytes stay as they are."""
        lines = [b"%s,%s" % (name or b"", quoted(caption or b"")) for name, caption in self._cells()]
        path = self.root / "captions.csv.gz"
        path.write_bytes(gzip.compress(b"\n".join([b"file_name,caption", *lines])))
        return TableSource(table_uri=str(path), images_uri=str(self.images))

    def jsonl(self) -> TableSource:
        """Write the items as lines of JSON, with lists of captions, and bytes that are no UTF-8."""
        pairs = zip(self.names, self.captions, strict=True)
        lines = [json.dumps({"file_name": name, "caption": captions}) for name, captions in pairs]
        path = self.root / "captions.jsonl"
        path.write_bytes("\n".join([*lines, "{", "[]"]).encode().replace(rb"\udce9", b"\xe9"))
        return TableSource(table_uri=str(path), images_uri=str(self.images))

    def folder(self) -> FolderSource:
        """Write the first caption of each image beside it."""
        for name, captions in zip(self.names, self.captions, strict=True):
            if self.content(name) is not None and captions:
                path = self.images / str(name).replace("\\", "/").strip("/")
                path.with_suffix(".txt").write_bytes(cell_of(captions[0]) or b"")
        return FolderSource(images_uri=str(self.images))

    def tars(self) -> WebDatasetSource:
        """Write the images and all captions into two tars; of the second the end is missing."""
        for number in range(2):
            buffer = io.BytesIO()
            with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as tar:
                for name, captions in zip(self.names[number::2], self.captions[number::2], strict=True):
                    if (data := self.content(name)) is not None:
                        stem = str(name).rpartition(".")[0]
                        add_member(tar, str(name), data)
                        add_member(tar, f"{stem}.json", json.dumps({"caption": captions}).encode())
            whole = buffer.getvalue()
            (self.root / f"{number}.tar").write_bytes(whole[: len(whole) * (3 if number else 4) // 4])
        return WebDatasetSource(shards_uri=str(self.root / "{0..1}.tar"))

    def content(self, name: object) -> bytes | None:
        """Return an item's bytes where it has a file, and a name that every system can write."""
        if not isinstance(name, str) or "\0" in name or "\ud83d" in name or len(name) > 200:
            return None
        path = self.images / name.replace("\\", "/").strip("/")
        return path.read_bytes() if path.is_file() and ".." not in path.parts else None


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def quoted(cell: bytes) -> bytes:
    """Return a cell of CSV in quotes where it has a comma, or begins with a quote that would take in the next lines."""
    return b'"' + cell.replace(b'"', b'""') + b'"' if cell.startswith(b'"') or b"," in cell else cell


def cell_of(value: object) -> bytes | None:
    """Return a value as the bytes of a Parquet text cell; null for what is no text."""
    if not isinstance(value, str):
        return None
    return value.encode("utf-8", "surrogatepass" if "\ud83d" in value else "surrogateescape")
