"""The stages from the COCO sample to an adapter on one store, and a reader that verifies what is published there."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from softalign.artifacts import Adapter, DatasetManifest, EncodedManifest, FileEntry
from softalign.config import BackboneConfig, CocoSource, CurationConfig, Runtime, TrainConfig, UNetTokensConfig
from softalign.data.curation.changes import CaptionEdit, to_lines
from softalign.data.curation.pipeline import curate
from softalign.data.curation.reuse import Beside
from softalign.data.encoding.encode import encode
from softalign.errors import StorageUnavailableError
from softalign.store.files import private_cache
from softalign.store.store import Store
from softalign.training.train import train

ROOT = Path(__file__).parents[2]
COCO = ROOT.parent / "shared/data/coco"
NUM_CHANGED, NUM_ADDED, NUM_REMOVED = 40, 10, 5
STAGES = ("curate", "encode", "refresh", "encode again", "train")


@dataclass(frozen=True)
class Chain:
    """The stages on one store.

    Attributes:
        folder: with the model, the changes, and whatever is local.
        store_uri: where all is published.
    """

    folder: Path
    store_uri: str

    def run(self, stage: str) -> str:
        """Do a stage, going by those before, and return the digest of what it published."""
        from softalign.artifacts import DatasetManifest, EncodedManifest
        from softalign.store.store import Store

        store, runtime = Store(self.store_uri), Runtime(checkpoint_every_steps=1, num_threads=1)
        source = CocoSource(
            annotations_uri=str(COCO / "annotations/captions_train2017.json"), images_uri=str(COCO / "train2017")
        )
        config = CurationConfig(name="chaos", sources=(source,), samples_per_shard=16)
        backbone = BackboneConfig(family="sd15", model=str(self.folder / "model"), resolution_px=64)
        if stage == "curate":
            return curate(config, store, "first", runtime).digest
        if stage == "refresh":
            changed = config.model_copy(update={"caption_changes": (str(self.folder / "changes.jsonl"),)})
            return curate(changed, store, "second", runtime, "first", Beside("first")).digest
        if stage == "encode":
            return encode(_found(store, DatasetManifest, "first"), backbone, runtime, store, "first").digest
        before = _found(store, EncodedManifest, "first")
        if stage == "encode again":
            dataset = _found(store, DatasetManifest, "second")
            return encode(dataset, backbone, runtime, store, "second", before=before).digest
        trained = TrainConfig(
            soft_tokens=UNetTokensConfig(init="normal"), num_steps=6, batch_size=4, validate_every_steps=3
        )
        encoded = _found(store, EncodedManifest, "second")
        return train(encoded, backbone, trained, runtime, store, "second", "tiny").digest


def _found(store, kind, key):
    record = store.find(kind, key)
    if record is None:
        raise AssertionError(f"{kind.__name__} {key} was published, and is not there")
    return record


def change_captions(path: Path) -> None:
    """Write changes of some captions, of other images each."""
    table = json.loads((COCO / "annotations/captions_train2017.json").read_text())
    names = {image["id"]: image["file_name"] for image in table["images"]}
    captions = {names[one["image_id"]]: one["caption"] for one in table["annotations"] if one["image_id"] in names}
    chosen = sorted(name for name in captions if (COCO / "train2017" / name).is_file())
    ends = NUM_CHANGED, NUM_CHANGED + NUM_ADDED, NUM_CHANGED + NUM_ADDED + NUM_REMOVED
    edits = [
        CaptionEdit(
            source="0-coco", file_name=name, action="change", before=captions[name], caption=f"photo: {name[:9]}"
        )
        for name in chosen[: ends[0]]
    ]
    edits += [
        CaptionEdit(source="0-coco", file_name=name, action="add", caption=f"one more of {name[:9]}")
        for name in chosen[ends[0] : ends[1]]
    ]
    edits += [
        CaptionEdit(source="0-coco", file_name=name, action="remove", before=captions[name])
        for name in chosen[ends[1] : ends[2]]
    ]
    if len(edits) != ends[-1]:
        raise RuntimeError(f"{COCO} has too few images")
    path.write_bytes(to_lines(edits))


def watch(store_uri: str, until: Path, seen_path: Path) -> None:
    """Verify every record of a store as soon as it is there, until a file appears; write down what was seen.

    The file holds ``{"looks": N, "seen": {"curate first": {digest: times}}, "broken": [error]}``.
    """
    looks, seen, broken, is_last = 0, dict[str, Counter[str]](), list[str](), False
    while not is_last:
        is_last = until.exists()
        store = Store(store_uri)
        for kind in (DatasetManifest, EncodedManifest, Adapter):
            for key in ("first", "second"):
                try:
                    if (record := store.find(kind, key)) is not None:
                        verify(store, record)
                        seen.setdefault(f"{record.stage} {key}", Counter())[record.digest] += 1
                    looks += 1
                except StorageUnavailableError:
                    continue
                except Exception as error:
                    broken.append(f"{kind.__name__} {key}: {type(error).__name__}: {error}")
        time.sleep(0.02)
    seen_path.write_text(json.dumps({"looks": looks, "seen": seen, "broken": broken}))


def verify(store, record) -> None:
    """Read every file of a record, and the shared ones that it names, by their SHA-256; nothing is taken from a cache.

    Raises:
        IntegrityError: one is missing or another.
    """
    if not store.is_local:
        shutil.rmtree(private_cache(), ignore_errors=True)
    root = store.fetch(record)
    if isinstance(record, EncodedManifest):
        for name in ("latents.json", "texts.json"):
            for shard in json.loads((root / name).read_text()):
                store.fetch_shared(FileEntry.model_validate(shard["file"]))
