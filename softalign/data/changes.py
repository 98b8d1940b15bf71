"""What changed between two curated datasets: images by their content, captions by theirs."""

from __future__ import annotations

from dataclasses import dataclass

from softalign.artifacts import DatasetManifest
from softalign.data.curation.shards import shard_name
from softalign.store.store import Store


@dataclass(frozen=True, slots=True)
class DatasetChange:
    """Counts of images; ``num_recaptioned`` are those in both with other captions."""

    num_added: int
    num_removed: int
    num_recaptioned: int


def dataset_change(before: DatasetManifest, after: DatasetManifest, store: Store) -> DatasetChange:
    """Return how a dataset differs from another of the same store.

    Raises:
        IntegrityError: an index is not what was published.
        StorageUnavailableError: the store did not answer.
    """
    old, new = _captions_of(before, store), _captions_of(after, store)
    both = old.keys() & new.keys()
    return DatasetChange(
        num_added=len(new.keys() - both),
        num_removed=len(old.keys() - both),
        num_recaptioned=sum(old[image] != new[image] for image in both),
    )


def _captions_of(dataset: DatasetManifest, store: Store) -> dict[str, frozenset[str]]:
    """Return the digests of each image's captions, by the image's digest."""
    import pyarrow.parquet as pq

    found: dict[str, frozenset[str]] = {}
    for index in range(dataset.num_shards):
        path = store.fetch_file(dataset, f"{shard_name(index)}.parquet")
        columns = pq.read_table(path, columns=["image_digest", "caption_digests"], partitioning=None).to_pydict()
        found |= {
            image: frozenset(captions)
            for image, captions in zip(columns["image_digest"], columns["caption_digests"], strict=True)
        }
    return found
